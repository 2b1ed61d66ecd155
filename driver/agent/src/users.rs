//! Accounts, read from /etc/passwd and /etc/group: a static binary has no NSS. Users that exist only in NSS modules
//! (systemd's dynamic users, LDAP) are unknown here but for their numbers.

use crate::failure::{Doing, failure};
use agent_proto::message::{Failure, FailureKind};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};

const FILES: [&str; 2] = ["/etc/passwd", "/etc/group"];

/// Which state of a file it is: a change gives it another inode, time or size.
type Stamp = Option<(u64, i64, i64, u64)>;

/// Who a command runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
    pub(crate) shell: String,
}

/// The two files.
pub(crate) struct Database {
    passwd: String,
    group: String,
}

/// The agent's own account, where the files have one. Most commands ask for it: it is read again when they change.
pub(crate) fn own() -> Option<Account> {
    static KNOWN: Mutex<Option<([Stamp; 2], Option<Account>)>> = Mutex::new(None);
    let stamp = FILES.map(|path| {
        let meta = fs::metadata(path).ok()?;
        Some((meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.size()))
    });
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((of, account)) = &*known
        && *of == stamp
    {
        return account.clone();
    }
    let uid = nix::unistd::getuid().to_string();
    let account = Database::read().and_then(|database| database.account(&uid)).ok();
    *known = Some((stamp, account.clone()));
    account
}

impl Database {
    pub(crate) fn read() -> Result<Self, Failure> {
        let read = |path| fs::read_to_string(path).doing(format_args!("read {path}"));
        let [passwd, group] = FILES;
        Ok(Self { passwd: read(passwd)?, group: read(group)? })
    }

    /// The account of `name`, `uid`, or either with `:group`.
    pub(crate) fn account(&self, spec: &str) -> Result<Account, Failure> {
        let (user, group) = match spec.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (spec, None),
        };
        let number = user.parse().ok();
        let entry = self.passwd.lines().find_map(|line| passwd_entry(line, user, number));
        let mut account = match (entry, number) {
            (Some(account), _) => account,
            (None, Some(uid)) => Account {
                name: user.to_owned(),
                uid,
                gid: uid,
                groups: Vec::new(),
                home: "/".into(),
                shell: "/bin/sh".into(),
            },
            (None, None) => {
                return Err(failure(FailureKind::NotFound, format!("no user `{user}` in /etc/passwd")));
            }
        };
        if let Some(group) = group {
            account.gid = self.group_id(group)?;
        }
        account.groups = self.groups_of(&account.name);
        account.groups.push(account.gid);
        account.groups.sort_unstable();
        account.groups.dedup();
        Ok(account)
    }

    /// Owner and group of `user`, `user:group` or `:group`. A user alone brings its own group.
    pub(crate) fn owner(&self, spec: &str) -> Result<(Option<u32>, Option<u32>), Failure> {
        if let Some(group) = spec.strip_prefix(':') {
            return Ok((None, Some(self.group_id(group)?)));
        }
        let account = self.account(spec)?;
        Ok((Some(account.uid), Some(account.gid)))
    }

    fn group_id(&self, group: &str) -> Result<u32, Failure> {
        let entry = self.group.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next()? == group).then(|| fields.nth(1)?.parse().ok()).flatten()
        });
        entry
            .or_else(|| group.parse().ok())
            .ok_or_else(|| failure(FailureKind::NotFound, format!("no group `{group}` in /etc/group")))
    }

    fn groups_of(&self, user: &str) -> Vec<u32> {
        let member = |line: &str| {
            let mut fields = line.split(':').skip(2);
            let id = fields.next()?.parse().ok()?;
            fields.next()?.split(',').any(|name| name == user).then_some(id)
        };
        self.group.lines().filter_map(member).collect()
    }
}

fn passwd_entry(line: &str, user: &str, number: Option<u32>) -> Option<Account> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, shell] = fields[..] else {
        return None;
    };
    let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
    (name == user || number == Some(uid)).then(|| Account {
        name: name.to_owned(),
        uid,
        gid,
        groups: Vec::new(),
        home: home.to_owned(),
        shell: if shell.is_empty() { "/bin/sh".to_owned() } else { shell.to_owned() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> Database {
        Database {
            passwd: "root:x:0:0:root:/root:/bin/bash\nbroken line\nk3s:x:120:130::/var/lib/k3s:\n".into(),
            group: "root:x:0:\nk3s:x:130:\ndisk:x:6:k3s,other\nadm:x:4:notk3s\n".into(),
        }
    }

    #[test]
    fn an_account_has_its_groups() {
        let account = database().account("k3s").unwrap();
        assert_eq!((account.uid, account.gid, account.groups), (120, 130, vec![6, 130]));
        assert_eq!((account.home.as_str(), account.shell.as_str()), ("/var/lib/k3s", "/bin/sh"));
    }

    #[test]
    fn numbers_and_groups_are_understood() {
        assert_eq!(database().account("120").unwrap().name, "k3s");
        assert_eq!(database().account("0:disk").unwrap().gid, 6);
        assert_eq!(database().account("4242").unwrap().gid, 4242);
        assert_eq!(database().owner(":k3s").unwrap(), (None, Some(130)));
        assert_eq!(database().owner("k3s").unwrap(), (Some(120), Some(130)));
    }

    #[test]
    fn who_is_missing_is_named() {
        assert!(database().account("nobody").unwrap_err().message.contains("`nobody`"));
        assert!(database().owner("root:wheel").unwrap_err().message.contains("`wheel`"));
    }
}
