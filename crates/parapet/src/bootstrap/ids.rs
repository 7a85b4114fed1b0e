//! Ids derived from names, so that a file can speak of an organization before it exists.

use uuid::Uuid;

fn namespace() -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_DNS, b"parapet.internal")
}

/// The id of an organization that was given none.
pub fn organization(name: &str) -> Uuid {
    Uuid::new_v5(&namespace(), format!("organization/{name}").as_bytes())
}

/// The id of a tenant that was given none.
pub fn tenant(organization: &str, name: &str) -> Uuid {
    Uuid::new_v5(&namespace(), format!("organization/{organization}/tenant/{name}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_of_one_name_in_two_organizations_differ() {
        assert_ne!(tenant("a", "main"), tenant("b", "main"));
        assert_eq!(tenant("a", "main"), tenant("a", "main"));
    }
}
