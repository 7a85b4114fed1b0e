//! Have I Been Pwned, domain results: `{alias: [breach]}` and `{alias: [website]}`. No secrets, so each record only
//! marks an identity as exposed.

use super::{Found, array_of_texts, origin, targets};
use crate::feed::{
    content::is_host,
    fields::Fields,
    record::{Feed, OriginKind, Record, Reject},
};

/// Every member is a list of words.
pub(super) fn is_domain_result(fields: &Fields<'_>) -> bool {
    !fields.is_empty() && fields.iter().all(|(_, value)| array_of_texts(value).is_some())
}

/// One record per alias and breach, or per alias with its websites.
pub(super) fn domain_result(fields: &Fields<'_>, domain: Option<&str>, found: &mut Found) {
    for (alias, value) in fields.iter() {
        let identity = match (alias.contains('@'), domain) {
            (true, _) => alias.to_owned(),
            (false, Some(domain)) => format!("{alias}@{domain}"),
            (false, None) => {
                found.push(Err(Reject::NoDomain));
                continue;
            }
        };
        let names = array_of_texts(value).unwrap_or_default();
        if !names.is_empty() && names.iter().all(|name| is_host(name)) {
            let mut record =
                Record::new(Feed::Hibp, identity.clone(), origin(None, None, OriginKind::Stealer));
            record.external_id = fitting(format!("stealer:{}", identity.to_lowercase()));
            record.targets = targets(names);
            found.push(Ok(record));
            continue;
        }
        for name in names {
            let mut record = Record::new(
                Feed::Hibp,
                identity.clone(),
                origin(Some(name.clone()), Some(name.clone()), OriginKind::Breach),
            );
            record.external_id = fitting(format!("{name}:{}", identity.to_lowercase()));
            found.push(Ok(record));
        }
    }
}

/// The id, unless it is too long to be one; the import then derives it.
fn fitting(id: String) -> Option<String> {
    (id.len() <= 256).then_some(id)
}
