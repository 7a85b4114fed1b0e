//! Groups: as the directory was made with them, and as what was written since changed who belongs to them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Account, Directory, Kind, Link};

/// A group; membership of generated accounts is a rule over their index.
#[expect(clippy::struct_excessive_bools, reason = "each is a property of its own in a JSON file")]
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Object id.
    pub id: String,
    /// Name people see.
    pub name: String,
    /// Ids of accounts that are direct members.
    #[serde(default)]
    pub members: Vec<String>,
    /// Ids of groups that are direct members.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Every n-th generated account is a direct member too.
    #[serde(default)]
    pub every: Option<u64>,
    /// Ids of its owners (Entra ID).
    #[serde(default)]
    pub owners: Vec<String>,
    /// What it is for (Entra ID).
    #[serde(default)]
    pub kind: GroupKind,
    /// Its members follow a rule, and nobody writes them (Entra ID).
    #[serde(default)]
    pub dynamic: bool,
    /// Mastered in an on-premises AD (Entra ID).
    #[serde(default)]
    pub synced: bool,
    /// Directory roles can be assigned to it (Entra ID).
    #[serde(default)]
    pub role_assignable: bool,
    /// Who is in it is hidden from callers without a permission of its own (Entra ID).
    #[serde(default)]
    pub hidden: bool,
    /// Guests are not let in (Entra ID).
    #[serde(default)]
    pub refuses_guests: bool,
}

/// What a group of Entra ID is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupKind {
    /// A security group.
    #[default]
    Security,
    /// A Microsoft 365 group.
    Unified,
    /// A distribution list or a mail-enabled security group.
    Mail,
}

/// Who the direct members of a group are, for one reader.
#[derive(Debug)]
pub struct Membership<'d> {
    directory: &'d Directory,
    group: &'d Group,
    /// Ids of objects that joined (true) or left since the directory was made.
    moves: BTreeMap<String, bool>,
}

impl<'d> Membership<'d> {
    /// Whether an object is a direct member.
    pub fn has(&self, id: &str) -> bool {
        self.moves.get(id).copied().unwrap_or_else(|| {
            let by_rule = || {
                let index = self.directory.accounts.index_of(id);
                self.group.every.zip(index).is_some_and(|(n, index)| n > 0 && index % n == 0)
            };
            let told = |ids: &[String]| ids.iter().any(|member| member == id);
            told(&self.group.members) || told(&self.group.groups) || by_rule()
        })
    }

    /// The groups among the direct members.
    pub fn groups(&self) -> Vec<&'d Group> {
        let made = self.group.groups.iter().filter(|id| !self.moves.contains_key(*id));
        let ids = made.map(String::as_str).chain(self.joined());
        ids.filter_map(|id| self.directory.group(id)).collect()
    }

    /// Ids of objects that joined since.
    pub fn joined(&self) -> impl Iterator<Item = &str> {
        self.moves.iter().filter(|(_, present)| **present).map(|(id, _)| id.as_str())
    }
}

impl Directory {
    /// The group with this id.
    pub fn group(&self, id: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.id == id)
    }

    /// The direct members of a group as they are, or as a reader sees them who lags behind at `seen`.
    pub fn membership<'d>(&'d self, group: &'d Group, seen: Option<OffsetDateTime>) -> Membership<'d> {
        let written = self.links.from(Kind::Member, &group.id, seen);
        let moves = written.into_iter().map(|(link, written)| (link.to, written.present)).collect();
        Membership { directory: self, group, moves }
    }

    /// The groups inside a group, at any depth, each once.
    pub fn nested(&self, group: &str) -> Vec<&Group> {
        let mut found: Vec<&Group> = Vec::new();
        let mut waiting: Vec<&Group> = self.group(group).into_iter().collect();
        while let Some(next) = waiting.pop() {
            for inner in self.membership(next, None).groups() {
                if inner.id != group && !found.iter().any(|known| known.id == inner.id) {
                    found.push(inner);
                    waiting.push(inner);
                }
            }
        }
        found
    }

    /// Whether an account belongs to a group, through nested groups too.
    pub fn is_member(&self, group: &str, account: &Account) -> bool {
        let Some(itself) = self.group(group) else { return false };
        self.is_direct_member(itself, account)
            || self.nested(group).into_iter().any(|inner| self.is_direct_member(inner, account))
    }

    /// Whether an account is a direct member of a group.
    pub fn is_direct_member(&self, group: &Group, account: &Account) -> bool {
        self.membership(group, None).has(&account.id)
    }

    /// Ids of the owners of a group, oldest first, as they are or as a reader sees them who lags behind.
    pub fn owners(&self, group: &Group, seen: Option<OffsetDateTime>) -> Vec<String> {
        let mut owners = group.owners.clone();
        for (link, written) in self.links.from(Kind::Owner, &group.id, seen) {
            owners.retain(|owner| *owner != link.to);
            if written.present {
                owners.push(link.to);
            }
        }
        owners
    }

    /// Names of the directory roles a group holds.
    pub fn group_roles(&self, group: &str, seen: Option<OffsetDateTime>) -> Vec<String> {
        let written = self.links.from(Kind::Role, group, seen);
        written.into_iter().filter(|(_, written)| written.present).map(|(link, _)| link.label).collect()
    }

    /// Has readers of changes look again at the groups of an account that was deleted or restored.
    pub fn touch_memberships(&self, account: &Account) {
        for group in self.groups.iter().filter(|group| self.is_direct_member(group, account)) {
            self.links.touch(&Link::new(Kind::Member, &group.id, &account.id));
        }
    }
}
