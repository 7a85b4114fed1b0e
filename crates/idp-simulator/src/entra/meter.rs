//! Quotas of an application in a tenant: resource units in ten seconds and writes in 150 (entra.md §7.4).

use std::collections::HashMap;
use std::sync::Mutex;

use bytes::Bytes;
use http::Response;
use time::{Duration, OffsetDateTime};

use super::access::Caller;
use crate::faults::{Hint, throttled};
use crate::sync::lock;
use crate::wire::{self, Request};

const UNITS_WINDOW: Duration = Duration::seconds(10);
const WRITES_WINDOW: Duration = Duration::seconds(150);
/// From this share of a quota on answers tell how much of it is used.
const TOLD_FROM: f64 = 0.8;

/// What is used of each quota: by tenant, application and whether it counts writes.
#[derive(Debug, Default)]
pub struct Meters {
    used: Mutex<HashMap<(String, String, bool), Window>>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    ends: OffsetDateTime,
    used: u32,
}

impl Meters {
    /// Counts a call; the error is the answer when it is beyond a quota. Refused calls count too. The share used is told
    /// when it is high.
    pub fn count(
        &self,
        request: &Request,
        caller: &Caller,
        units: u32,
        writes: bool,
        now: OffsetDateTime,
    ) -> Result<Option<f64>, Response<Bytes>> {
        let settings = &caller.tenant.settings;
        let quotas = [
            (settings.resource_units, units, false, UNITS_WINDOW, "ResourceUnitLimitExceeded"),
            (settings.writes, u32::from(writes), true, WRITES_WINDOW, "WriteLimitExceeded"),
        ];
        let mut highest: f64 = 0.0;
        for (limit, cost, is_write, length, information) in quotas {
            let Some(limit) = limit else { continue };
            let key = (settings.tenant_id.clone(), caller.client_id.clone(), is_write);
            let mut used = lock(&self.used);
            let window = used.entry(key).or_insert(Window { ends: now, used: 0 });
            if window.ends <= now {
                *window = Window { ends: now + length, used: 0 };
            }
            window.used = window.used.saturating_add(cost);
            if cost > 0 && window.used > limit {
                let left = (window.ends - now).whole_seconds().max(0).unsigned_abs() + 1;
                let mut response = throttled(&request.surface, Some(Hint::Seconds(left)), now);
                let kind = if is_write { "Write" } else { "ReadWrite" };
                let scope = format!("Tenant_Application/{kind}/{}/{}", caller.client_id, settings.tenant_id);
                wire::set_header(&mut response, "x-ms-throttle-scope", &scope);
                wire::set_header(&mut response, "x-ms-throttle-information", information);
                return Err(response);
            }
            highest = highest.max(f64::from(window.used) / f64::from(limit.max(1)));
        }
        Ok(Some(highest).filter(|share| *share >= TOLD_FROM))
    }

    /// Forgets all.
    pub fn clear(&self) {
        lock(&self.used).clear();
    }
}
