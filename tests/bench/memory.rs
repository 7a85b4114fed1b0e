//! Memory of each service: at its peak over the whole run, beside what it held when it had just started.

use std::{collections::BTreeMap, fs};

use anyhow::Context;
use parapet::stack::SERVICES;

use crate::{report::Report, stage::Stage};

/// Resident memory of each service now, in MiB.
pub fn resident(stage: &Stage) -> anyhow::Result<BTreeMap<&'static str, f64>> {
    SERVICES.iter().map(|service| Ok((service.name, read(stage, service.name, "VmRSS:")?))).collect()
}

/// Adds each service's peak.
pub fn report(stage: &Stage, report: &mut Report, idle: &BTreeMap<&'static str, f64>) -> anyhow::Result<()> {
    for (service, idle) in idle {
        report.add(&format!("peak memory of {service}, beside idle"), "MiB", peak(stage, service)?, *idle);
    }
    Ok(())
}

/// Has the peak of a service count from now on.
pub fn forget_peak(stage: &Stage, service: &str) -> anyhow::Result<()> {
    let file = format!("/proc/{}/clear_refs", stage.pid(service)?);
    fs::write(&file, "5").with_context(|| format!("cannot write {file}"))
}

/// Resident memory of a service at its peak, in MiB.
pub fn peak(stage: &Stage, service: &str) -> anyhow::Result<f64> {
    read(stage, service, "VmHWM:")
}

/// A line of `/proc/PID/status`, which counts in KiB.
fn read(stage: &Stage, service: &str, field: &str) -> anyhow::Result<f64> {
    let file = format!("/proc/{}/status", stage.pid(service)?);
    let status = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    let kib: Option<u32> = status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok());
    Ok(f64::from(kib.with_context(|| format!("no {field} in {file}"))?) / 1024.0)
}
