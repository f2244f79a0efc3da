//! Users by name, looked up in the container's own `/etc/passwd` and `/etc/group` (passwd(5), group(5)) by the rules of docker's
//! `--user`: a number need not be listed, a name must be. Both files are the container's words, and bounded.

use std::{
    ffi::CString,
    fs::File,
    io::{self, Read},
    path::Path,
};

use rustix::fs::{OFlags, fstat};

use super::{
    failure::{During, Failure},
    root::Root,
};
use crate::plan::ProcessPlan;

/// Of each file, in bytes; what lies beyond is not seen.
const MAX_LEN: u64 = 1 << 20;

/// More groups than these a process cannot have (`NGROUPS_MAX` is 65536), and nobody has.
const MOST_GROUPS: usize = 1024;

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// Makes the plan's user the one that `asked` names: `[USER][:GROUP]`.
pub(super) fn assign(plan: &mut ProcessPlan, asked: &str, root: &Root) -> Result<(), Failure> {
    let read = |path: &str| read(root, Path::new(path)).during(|| format!("read the container's {path}"));
    let (passwd, group) = (read("/etc/passwd")?, read("/etc/group")?);
    assign_from(plan, asked, &passwd, &group).during(|| format!("find the user {asked:?}"))
}

fn assign_from(plan: &mut ProcessPlan, asked: &str, passwd: &str, group: &str) -> io::Result<()> {
    let (user, group_asked) = asked.split_once(':').unwrap_or((asked, ""));
    let user = if user.is_empty() { "0" } else { user };
    let number = id(user);
    let account = accounts(passwd).find(|account| account.name == user || Some(account.uid) == number);
    (plan.uid, plan.gid) = match (&account, number) {
        (Some(account), _) => (account.uid, account.gid),
        (None, Some(uid)) => (uid, 0),
        (None, None) => return Err(missing("/etc/passwd has no such user")),
    };
    plan.additional_gids = Vec::new();
    if group_asked.is_empty() {
        let name = account.as_ref().map(|account| account.name);
        let lists = |members: &str| name.is_some_and(|name| members.split(',').any(|member| member == name));
        let listed = groups(group).filter(|(_, _, members)| lists(members)).map(|(_, gid, _)| gid);
        plan.additional_gids = listed.take(MOST_GROUPS).collect();
    } else {
        let number = id(group_asked);
        let found = groups(group).find(|(name, gid, _)| *name == group_asked || Some(*gid) == number);
        let gid = found.map(|(_, gid, _)| gid).or(number);
        plan.gid = gid.ok_or_else(|| missing("/etc/group has no such group"))?;
    }
    if !plan.env.iter().any(|variable| variable.to_bytes().starts_with(b"HOME=")) {
        let home = account.map(|account| account.home).filter(|home| !home.is_empty()).unwrap_or("/");
        plan.env.push(CString::new(format!("HOME={home}"))?);
    }
    Ok(())
}

fn missing(words: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, words)
}

/// One that is not there is empty.
fn read(root: &Root, path: &Path) -> io::Result<String> {
    // Whatever it is, opening it does not wait.
    let file = match root.open(path, OFlags::RDONLY | OFlags::NONBLOCK) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        file => File::from(file?),
    };
    if rustix::fs::FileType::from_raw_mode(fstat(&file)?.st_mode) != rustix::fs::FileType::RegularFile {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    file.take(MAX_LEN).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (id(fields.next()?)?, id(fields.next()?)?);
        let (_comment, home) = (fields.next(), fields.next().unwrap_or_default());
        Some(Account { name, uid, gid, home })
    })
}

/// Name, number and members.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        Some((name, id(fields.next()?)?, fields.next().unwrap_or_default()))
    })
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

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken:x:y:z\nweb:x:33:34::/var/www:/bin/false\n";
    const GROUP: &str = "root:x:0:\naudio:x:29:web,other\ndisk:x:6:webber\n";

    fn plan() -> ProcessPlan {
        let process =
            serde_json::json!({"args": ["x"], "cwd": "/", "user": {"uid": 9, "additionalGids": [7]}});
        crate::plan::process(&serde_json::to_vec(&process).unwrap()).unwrap()
    }

    fn assigned(asked: &str) -> io::Result<(u32, u32, Vec<u32>, CString)> {
        let mut plan = plan();
        assign_from(&mut plan, asked, PASSWD, GROUP)?;
        Ok((plan.uid, plan.gid, plan.additional_gids, plan.env.remove(0)))
    }

    #[test]
    fn a_name_brings_its_groups_and_its_home() {
        assert_eq!(assigned("web").unwrap(), (33, 34, vec![29], c"HOME=/var/www".into()));
        assert_eq!(assigned("33:disk").unwrap(), (33, 6, vec![], c"HOME=/var/www".into()));
        assert_eq!(assigned("5000:5001").unwrap(), (5000, 5001, vec![], c"HOME=/".into()));
    }

    #[test]
    fn a_name_that_is_not_there_is_nobody() {
        for asked in ["ghost", "web:ghost", "4294967295", "-1", "broken"] {
            assert!(assigned(asked).is_err(), "{asked}");
        }
    }
}
