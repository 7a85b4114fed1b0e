//! The application permissions of Microsoft Graph that we come with or do without (entra.md §17, §18): one table for the
//! connection test, which says what is missing, and for the catalogue, which says so before.

use crate::provider::Capability;

/// An application permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permission {
    /// As consent screens and tokens show it.
    pub name: &'static str,
    /// App-role id: what the list of grants shows.
    pub id: &'static str,
}

macro_rules! permissions {
    ($($constant:ident = $name:literal, $id:literal;)*) => {
        $(#[doc = concat!("`", $name, "`")] pub const $constant: Permission = Permission { name: $name, id: $id };)*
        /// Every permission.
        pub(super) const ALL: &[Permission] = &[$($constant),*];
    };
}

permissions! {
    USER_READ = "User.Read.All", "df021288-bdef-4463-88db-98f22de89214";
    USER_READ_WRITE = "User.ReadWrite.All", "741f803b-c850-494e-b5df-cde7c675a1ca";
    USER_REVOKE_SESSIONS = "User.RevokeSessions.All", "77f3a031-c388-4f99-b373-dc68676a979e";
    USER_ENABLE_DISABLE = "User.EnableDisableAccount.All", "3011c876-62b7-4ada-afa2-506cbbecc68c";
    RISKY_USER_READ = "IdentityRiskyUser.Read.All", "dc5007c0-2d7d-4c42-879c-2dab87571379";
    RISKY_USER_READ_WRITE = "IdentityRiskyUser.ReadWrite.All", "656f6061-f9fe-4807-9708-6a2e0934df76";
    GROUP_MEMBER_READ = "GroupMember.Read.All", "98830695-27a2-44f7-8c18-0c3ebc9698f6";
    GROUP_READ = "Group.Read.All", "5b567255-7703-4780-807c-7be8301ae99b";
    MEMBER_READ_HIDDEN = "Member.Read.Hidden", "658aa5d8-239f-45c4-aa12-864f4fc7e490";
    DIRECTORY_READ = "Directory.Read.All", "7ab1d382-f21e-4acd-a863-ba3e13f7da61";
    DIRECTORY_READ_WRITE = "Directory.ReadWrite.All", "19dbc75e-c2e2-444c-a770-ec69d8559fc7";
    ROLE_MANAGEMENT_READ = "RoleManagement.Read.Directory", "483bed4a-2ad3-4361-a73b-c83ccdbdc53c";
    ORGANIZATION_READ = "Organization.Read.All", "498476ce-e0fe-48b0-b801-37ba7e2685c6";
    AUDIT_LOG_READ = "AuditLog.Read.All", "b0afded3-3588-46d8-8b3d-9842eff778da";
    ON_PREMISES_SYNC_READ = "OnPremDirectorySynchronization.Read.All", "bb70e231-92dc-4729-aff5-697b3f04be95";
    APPLICATION_READ = "Application.Read.All", "9a5d68dd-52b0-4cc2-bd40-abcf44ac3a30";
}

/// Sets of permissions that suffice for a capability, the least first.
pub(super) const fn needs(capability: Capability) -> &'static [&'static [Permission]] {
    match capability {
        Capability::Read => &[&[USER_READ], &[USER_READ_WRITE], &[DIRECTORY_READ], &[DIRECTORY_READ_WRITE]],
        Capability::Validate => &[&[]],
        Capability::RevokeSessions => &[&[USER_REVOKE_SESSIONS], &[USER_READ_WRITE], &[DIRECTORY_READ_WRITE]],
        Capability::DisableAccount => {
            &[&[USER_ENABLE_DISABLE, USER_READ], &[USER_READ_WRITE], &[DIRECTORY_READ_WRITE]]
        }
        Capability::MarkCompromised => &[&[RISKY_USER_READ_WRITE, RISKY_USER_READ]],
    }
}

/// What acting takes, by the permission that serves nothing else.
pub(super) const ACTING: [(Capability, Permission); 3] = [
    (Capability::RevokeSessions, USER_REVOKE_SESSIONS),
    (Capability::DisableAccount, USER_ENABLE_DISABLE),
    (Capability::MarkCompromised, RISKY_USER_READ_WRITE),
];

/// Sets of permissions that suffice to read who is in which group, besides reading users (entra.md §9).
pub(super) const GROUP_READERS: &[&[Permission]] =
    &[&[GROUP_MEMBER_READ], &[GROUP_READ], &[DIRECTORY_READ], &[DIRECTORY_READ_WRITE]];

/// A permission that nothing fails without, but something is worse.
#[derive(Clone, Copy, Debug)]
pub struct Optional {
    /// The one to grant.
    pub permission: Permission,
    /// Wider ones that contain it, by name.
    pub(super) or: &'static [&'static str],
    /// Stable reason of the test's warning.
    pub(super) reason: &'static str,
    /// What its absence costs.
    pub cost: &'static str,
    /// When it is worth granting, or what else it takes.
    pub condition: Option<&'static str>,
}

/// Tells who is an administrator.
pub const ADMINISTRATORS: Optional = Optional {
    permission: ROLE_MANAGEMENT_READ,
    or: &["RoleManagement.ReadWrite.Directory", "Directory.Read.All"],
    reason: "admins_unknown",
    cost: "administrators are not recognised, the protection of privileged accounts does not cover them, and \
        accounts cannot be protected by role",
    condition: None,
};
/// Tells when the owner signed in last, and how many wrong tries there were since.
pub const SIGN_INS: Optional = Optional {
    permission: AUDIT_LOG_READ,
    or: &[],
    reason: "sign_ins_unknown",
    cost: "the owner's sign-ins and wrong tries are unknown, so that an account's reserve is given back only by a new \
        password and ignores what the owner spent; and an undo does not see who else enabled an account since (with \
        Directory.Read.All)",
    condition: Some("needs Entra ID P1"),
};
/// Tells how many wrong passwords lock an account.
pub const LOCKOUT: Optional = Optional {
    permission: DIRECTORY_READ,
    or: &["Directory.ReadWrite.All"],
    reason: "lockout_unknown",
    cost: "the tenant's lockout threshold is unknown, so that Microsoft's default is assumed (10; US government 3)",
    condition: Some("if the threshold was lowered"),
};
/// Tells which passwords Active Directory checks.
pub const PASSWORD_AUTHORITY: Optional = Optional {
    permission: ON_PREMISES_SYNC_READ,
    or: &[],
    reason: "password_authority_unknown",
    cost: "whether passwords are checked in Active Directory (pass-through) is unknown",
    condition: Some("if accounts are synchronised"),
};
/// Tells which products a tenant has: of a school's, Microsoft asks less of a password.
pub const LICENCES: Optional = Optional {
    permission: ORGANIZATION_READ,
    or: &[
        "Organization.ReadWrite.All",
        "LicenseAssignment.Read.All",
        "Directory.Read.All",
        "Directory.ReadWrite.All",
    ],
    reason: "licences_unknown",
    cost: "whether the tenant is a school's is unknown, so that passwords too simple for any other are tried as well",
    condition: None,
};
/// What the test warns about.
pub(super) const OPTIONAL: [Optional; 5] = [ADMINISTRATORS, SIGN_INS, LOCKOUT, PASSWORD_AUTHORITY, LICENCES];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_permissions_share_a_name_or_an_id_and_every_id_is_a_guid() {
        for (at, one) in ALL.iter().enumerate() {
            assert!(uuid::Uuid::try_parse(one.id).is_ok(), "{one:?}");
            assert!(
                ALL[at + 1..].iter().all(|other| other.name != one.name && other.id != one.id),
                "{one:?}"
            );
        }
    }
}
