//! What is done to a tree, as chance will have it: few names, so that they meet.

use crate::random::Random;

/// A path below the top: names of one letter.
pub(crate) type Name = String;

#[derive(Clone, Debug)]
pub(crate) enum Change {
    Create {
        path: Name,
        mode: u32,
        exclusive: bool,
    },
    Write {
        path: Name,
        offset: u64,
        len: usize,
        empties: bool,
    },
    Truncate {
        path: Name,
        len: i64,
    },
    MakeDirectory {
        path: Name,
        mode: u32,
    },
    RemoveDirectory {
        path: Name,
    },
    Unlink {
        path: Name,
    },
    Symlink {
        target: Name,
        path: Name,
    },
    Link {
        from: Name,
        to: Name,
        follow: bool,
    },
    Rename {
        from: Name,
        to: Name,
        how: RenameHow,
    },
    SetMode {
        path: Name,
        mode: u32,
    },
    SetOwner {
        path: Name,
        uid: Option<u32>,
        gid: Option<u32>,
        follow: bool,
    },
    SetTimes {
        path: Name,
        modified: Option<(i64, i64)>,
        follow: bool,
    },
    SetXattr {
        path: Name,
        name: &'static str,
        len: usize,
        how: XattrHow,
    },
    RemoveXattr {
        path: Name,
        name: &'static str,
    },
    MakeNode {
        path: Name,
        kind: NodeKind,
        mode: u32,
    },
    List {
        path: Name,
    },
    Read {
        path: Name,
    },
    ReadLink {
        path: Name,
    },
    Look {
        path: Name,
        follow: bool,
    },
    /// Keeps a file open, which the later ones use, whatever its name has become.
    Hold {
        slot: usize,
        path: Name,
    },
    AppendToHeld {
        slot: usize,
        len: usize,
    },
    LookAtHeld {
        slot: usize,
    },
    /// O_TMPFILE
    HoldWithoutName {
        slot: usize,
        directory: Name,
        mode: u32,
    },
    NameHeld {
        slot: usize,
        path: Name,
    },
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum RenameHow {
    Over,
    NoReplace,
    Exchange,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum XattrHow {
    Either,
    Create,
    Replace,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum NodeKind {
    File,
    Pipe,
    Socket,
    /// A character device of number 0, as an overlay makes them.
    Whiteout,
}

pub(crate) const SLOTS: u64 = 4;
const XATTRS: [&str; 4] = ["user.one", "user.two", "user.three", "user."];

impl Change {
    pub(crate) fn random(random: &mut Random) -> Self {
        match random.below(30) {
            0..=3 => Self::Create { path: name(random), mode: mode(random), exclusive: random.coin() },
            4..=5 => Self::Write {
                path: name(random),
                offset: random.of_any_size(16),
                len: random.of_any_size(13) as usize,
                empties: random.below(4) == 0,
            },
            6 => Self::Truncate { path: name(random), len: random.of_any_size(17) as i64 },
            7..=10 => Self::MakeDirectory { path: name(random), mode: mode(random) },
            11 => Self::RemoveDirectory { path: name(random) },
            12..=13 => Self::Unlink { path: name(random) },
            14 => Self::Symlink { target: name(random), path: name(random) },
            15 => Self::Link { from: name(random), to: name(random), follow: random.coin() },
            16..=18 => {
                use RenameHow::{Exchange, NoReplace, Over};
                let how = random.one_of(&[Over, Over, NoReplace, Exchange]);
                Self::Rename { from: name(random), to: name(random), how }
            }
            19 => Self::MakeNode {
                path: name(random),
                kind: random.one_of(&[NodeKind::File, NodeKind::Pipe, NodeKind::Socket, NodeKind::Whiteout]),
                mode: mode(random),
            },
            20..=23 => Self::of_attributes(random),
            24..=26 => Self::of_held(random),
            _ => Self::look(random),
        }
    }

    fn of_attributes(random: &mut Random) -> Self {
        let path = name(random);
        let id = |random: &mut Random| random.coin().then(|| random.below(3) as u32 * 1000);
        match random.below(6) {
            0 => Self::SetMode { path, mode: mode(random) },
            1 => Self::SetOwner { path, uid: id(random), gid: id(random), follow: random.coin() },
            2 => {
                let time = (random.below(900_000_000) as i64, random.below(1_000_000_000) as i64);
                Self::SetTimes { path, modified: random.coin().then_some(time), follow: random.coin() }
            }
            3..=4 => {
                use XattrHow::{Create, Either, Replace};
                let how = random.one_of(&[Either, Either, Create, Replace]);
                Self::SetXattr {
                    path,
                    name: random.one_of(&XATTRS),
                    len: random.of_any_size(8) as usize,
                    how,
                }
            }
            _ => Self::RemoveXattr { path, name: random.one_of(&XATTRS) },
        }
    }

    fn of_held(random: &mut Random) -> Self {
        let slot = random.below(SLOTS) as usize;
        match random.below(7) {
            0 => Self::Hold { slot, path: name(random) },
            1 => Self::HoldWithoutName { slot, directory: name(random), mode: mode(random) },
            2 => Self::NameHeld { slot, path: name(random) },
            3..=4 => Self::AppendToHeld { slot, len: random.of_any_size(12) as usize },
            _ => Self::LookAtHeld { slot },
        }
    }

    fn look(random: &mut Random) -> Self {
        let path = name(random);
        match random.below(4) {
            0 => Self::List { path },
            1 => Self::Read { path },
            2 => Self::ReadLink { path },
            _ => Self::Look { path, follow: random.coin() },
        }
    }
}

fn name(random: &mut Random) -> Name {
    let depth = random.one_of(&[1, 1, 2, 2, 2, 3]);
    let letters: Vec<&str> = (0..depth).map(|_| random.one_of(&["a", "b", "c"])).collect();
    letters.join("/")
}

/// Mostly ordinary ones.
fn mode(random: &mut Random) -> u32 {
    let any = random.below(0o10000) as u32;
    random.one_of(&[0o644, 0o755, 0o600, 0o2755, 0o4711, 0o1777, any])
}
