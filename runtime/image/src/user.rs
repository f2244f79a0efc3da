//! Names of users and groups, looked up in the image's own `/etc/passwd` and `/etc/group` (passwd(5), group(5)), by the rules of
//! `docker run --user`: a number need not be listed, a name must be.

use serde::{Deserialize, Serialize};

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// The groups that list the user, unless a group was named.
    pub additional_gids: Vec<u32>,
    /// The home directory, `/` for a user who is not listed.
    pub home: String,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ResolveUserError {
    #[error("the image's /etc/passwd has no user '{0}'")]
    NoUser(String),
    #[error("the image's /etc/group has no group '{0}'")]
    NoGroup(String),
}

/// The two files' content; what is no UTF-8 in them is replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Accounts {
    pub(crate) passwd: String,
    pub(crate) group: String,
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl User {
    /// As [`crate::Image::resolve_user`] for a root whose files are not read: by number.
    ///
    /// # Errors
    /// A name.
    pub fn by_number(spec: &str, more_groups: &[String]) -> Result<Self, ResolveUserError> {
        Accounts::default().resolve(spec, more_groups)
    }
}

impl Accounts {
    /// `spec` is `[USER|UID][:[GROUP|GID]]`; an empty one is root.
    pub(crate) fn resolve(&self, spec: &str, more_groups: &[String]) -> Result<User, ResolveUserError> {
        let (user, group) = spec.split_once(':').unwrap_or((spec, ""));
        let user = if user.is_empty() { "0" } else { user };
        let number = id(user);
        let account = self.accounts().find(|account| account.name == user || Some(account.uid) == number);
        let (uid, gid) = match (&account, number) {
            (Some(account), _) => (account.uid, account.gid),
            (None, Some(uid)) => (uid, 0),
            (None, None) => return Err(ResolveUserError::NoUser(user.to_owned())),
        };
        let home = match &account {
            Some(account) if !account.home.is_empty() => account.home,
            _ => "/",
        };
        let mut resolved = User { uid, gid, additional_gids: Vec::new(), home: home.to_owned() };
        if group.is_empty() {
            let name = account.map(|account| account.name);
            let lists = |group: &Group<'_>| {
                name.is_some_and(|name| group.members.split(',').any(|member| member == name))
            };
            resolved.additional_gids = self.groups().filter(lists).map(|group| group.gid).collect();
        } else {
            resolved.gid = self.group(group)?;
        }
        for group in more_groups {
            let gid = self.group(group)?;
            if !resolved.additional_gids.contains(&gid) {
                resolved.additional_gids.push(gid);
            }
        }
        Ok(resolved)
    }

    fn group(&self, asked: &str) -> Result<u32, ResolveUserError> {
        let number = id(asked);
        let listed = self.groups().find(|entry| entry.name == asked || Some(entry.gid) == number);
        let gid = listed.map(|entry| entry.gid).or(number);
        gid.ok_or_else(|| ResolveUserError::NoGroup(asked.to_owned()))
    }

    fn accounts(&self) -> impl Iterator<Item = Account<'_>> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _password) = (fields.next()?, fields.next()?);
            let (uid, gid) = (id(fields.next()?)?, id(fields.next()?)?);
            let (_comment, home) = (fields.next(), fields.next().unwrap_or_default());
            Some(Account { name, uid, gid, home })
        })
    }

    fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _password) = (fields.next()?, fields.next()?);
            Some(Group { name, gid: id(fields.next()?)?, members: fields.next().unwrap_or_default() })
        })
    }
}

/// The highest number means "no change" to setuid(2)'s relatives, so it is nobody's.
fn id(digits: &str) -> Option<u32> {
    if digits.starts_with('+') {
        return None;
    }
    digits.parse().ok().filter(|id| *id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken:x:y:z\nweb:x:33:34::/var/www:/bin/false\n7:x:70:71:::\n"
                .into(),
            group: "root:x:0:\naudio:x:29:web,other\nweb:x:34:\nvideo:x:44:other,web\ndisk:x:6:webber\n".into(),
        }
    }

    fn resolve(spec: &str) -> (u32, u32, Vec<u32>, String) {
        let user = accounts().resolve(spec, &[]).unwrap();
        (user.uid, user.gid, user.additional_gids, user.home)
    }

    #[test]
    fn a_name_brings_its_group_its_further_groups_and_its_home() {
        assert_eq!(resolve("web"), (33, 34, vec![29, 44], "/var/www".into()));
        assert_eq!(resolve("33"), (33, 34, vec![29, 44], "/var/www".into()));
        assert_eq!(resolve(""), (0, 0, vec![], "/root".into()));
    }

    #[test]
    fn a_named_group_stands_alone() {
        assert_eq!(resolve("web:audio"), (33, 29, vec![], "/var/www".into()));
        assert_eq!(resolve("web:4000"), (33, 4000, vec![], "/var/www".into()));
        assert_eq!(resolve(":audio"), (0, 29, vec![], "/root".into()));
    }

    #[test]
    fn further_groups_are_named_or_numbered() {
        let groups = |more: &[&str]| {
            let more: Vec<_> = more.iter().map(|group| (*group).to_owned()).collect();
            accounts().resolve("web", &more).map(|user| user.additional_gids)
        };
        assert_eq!(groups(&["disk", "4000"]), Ok(vec![29, 44, 6, 4000]));
        assert_eq!(groups(&["audio", "4000", "4000"]), Ok(vec![29, 44, 4000]), "each once");
        assert_eq!(groups(&["ghost"]), Err(ResolveUserError::NoGroup("ghost".into())));
    }

    #[test]
    fn a_number_need_not_be_listed_but_a_name_must() {
        assert_eq!(resolve("5000:5001"), (5000, 5001, vec![], "/".into()));
        assert_eq!(resolve("5000"), (5000, 0, vec![], "/".into()));
        assert_eq!(accounts().resolve("ghost", &[]), Err(ResolveUserError::NoUser("ghost".into())));
        assert_eq!(accounts().resolve("web:ghost", &[]), Err(ResolveUserError::NoGroup("ghost".into())));
        for nobody in ["4294967295", "-1", "+0", "99999999999"] {
            assert!(accounts().resolve(nobody, &[]).is_err(), "{nobody}");
        }
    }

    #[test]
    fn without_the_files_numbers_and_root_still_work() {
        let none = Accounts::default();
        assert_eq!(
            none.resolve("", &[]).unwrap(),
            User { uid: 0, gid: 0, additional_gids: vec![], home: "/".into() }
        );
        assert_eq!(none.resolve("1:2", &[]).unwrap().gid, 2);
        assert!(none.resolve("root", &[]).is_err());
    }
}
