//! What is refused whoever asks, in two directories, which are to answer the same: a table of what is asked, on one set of files.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::{
        fs::{FileExt, symlink},
        net::UnixListener,
    },
    path::Path,
};

use anyhow::{Context, Result, ensure};
use rustix::{
    fs::{
        AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, RenameFlags, SeekFrom, XattrFlags, chmod,
        copy_file_range, fallocate, getxattr, linkat, lsetxattr, lstat, mkdir, mknodat, open, readlink,
        removexattr, rename, renameat_with, rmdir, seek, setxattr, stat, symlink as make_symlink, unlink,
    },
    io::{Errno, Result as Answer},
};

use crate::{
    listing::{attributes, names},
    permissions::{USERS, same},
    sys,
};

/// The files that are asked about.
pub(crate) fn prepare(top: &Path) -> Result<()> {
    for directory in ["dir", "full", "full/below"] {
        fs::create_dir(top.join(directory))?;
    }
    for file in ["file", "other", "full/file"] {
        fs::write(top.join(file), "content\n")?;
    }
    for (target, name) in [
        ("loop", "loop"),
        ("two", "one"),
        ("one", "two"),
        ("file", "link"),
        ("dir", "link-to-dir"),
        ("nowhere", "dangling"),
    ] {
        symlink(target, top.join(name))?;
    }
    mknodat(CWD, top.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o666), 0)?;
    UnixListener::bind(top.join("socket"))?;
    setxattr(top.join("file"), "user.there", b"value", XattrFlags::empty())?;
    chmod(top, Mode::from_raw_mode(0o777))?;
    Ok(())
}

/// Prints how many were asked and refused.
pub(crate) fn run(roots: [&Path; 2]) -> Result<()> {
    let (mut asked, mut refused) = (0, 0);
    let [control, tried] = roots;
    for user in USERS {
        for (name, question) in QUESTIONS {
            let [expected, found] = [user.perform(|| question(control))?, user.perform(|| question(tried))?];
            ensure!(found == expected, "{name} by {user:?}: {found:?} in place of {expected:?}");
            asked += 1;
            refused += u64::from(found.is_err());
        }
        same(roots).with_context(|| format!("after all by {user:?}"))?;
    }
    println!("{asked} asked, {refused} refused");
    Ok(())
}

type Question = fn(&Path) -> Answer<String>;

/// None of them changes anything, unless by taking it back at once.
const QUESTIONS: &[(&str, Question)] = &[
    ("mkdir over a file", |at| done(mkdir(at.join("file"), Mode::RWXU))),
    ("mkdir over a directory", |at| done(mkdir(at.join("dir"), Mode::RWXU))),
    ("mkdir over a dangling link", |at| done(mkdir(at.join("dangling"), Mode::RWXU))),
    ("mkdir below a file", |at| done(mkdir(at.join("file/new"), Mode::RWXU))),
    ("mkdir below nothing", |at| done(mkdir(at.join("none/new"), Mode::RWXU))),
    ("mkdir with a slash", |at| both(mkdir(at.join("new/"), Mode::RWXU), || rmdir(at.join("new")))),
    ("a longest name", |at| {
        let name = at.join("n".repeat(255));
        both(mkdir(&name, Mode::RWXU), || rmdir(&name))
    }),
    ("a name that is too long", |at| done(mkdir(at.join("n".repeat(256)), Mode::RWXU))),
    ("a much longer name", |at| done(stat(at.join("n".repeat(2000))).map(drop))),
    ("a path that is too long", |at| done(stat(at.join("./".repeat(2100))).map(drop))),
    ("a name of bytes that are no text", |at| {
        use std::os::unix::ffi::OsStrExt;
        let name = at.join(std::ffi::OsStr::from_bytes(b"\xff\xfe\n"));
        both(mkdir(&name, Mode::RWXU), || rmdir(&name))
    }),
    ("no name", |_| done(stat("").map(drop))),
    ("rmdir of a full directory", |at| done(rmdir(at.join("full")))),
    ("rmdir of a file", |at| done(rmdir(at.join("file")))),
    ("rmdir of a link to a directory", |at| done(rmdir(at.join("link-to-dir")))),
    ("rmdir of a dot", |at| done(rmdir(at.join("dir/.")))),
    ("rmdir of the way up", |at| done(rmdir(at.join("full/below/..")))),
    ("unlink of a directory", |at| done(unlink(at.join("dir")))),
    ("unlink of nothing", |at| done(unlink(at.join("none")))),
    ("unlink with a slash", |at| done(unlink(at.join("file/")))),
    ("rename of nothing", |at| done(rename(at.join("none"), at.join("new")))),
    ("rename of a directory over a file", |at| done(rename(at.join("dir"), at.join("file")))),
    ("rename of a file over a directory", |at| done(rename(at.join("file"), at.join("dir")))),
    ("rename over a full directory", |at| done(rename(at.join("dir"), at.join("full")))),
    ("rename into itself", |at| done(rename(at.join("full"), at.join("full/below/new")))),
    ("rename over what is above", |at| done(rename(at.join("full/below"), at.join("full")))),
    ("rename to a name that is too long", |at| done(rename(at.join("file"), at.join("n".repeat(256))))),
    ("rename to itself", |at| done(rename(at.join("file"), at.join("file")))),
    ("rename over nothing only", |at| renamed(at, "file", "other", RenameFlags::NOREPLACE)),
    ("exchange with nothing", |at| renamed(at, "file", "none", RenameFlags::EXCHANGE)),
    ("exchange and keep", |at| renamed(at, "file", "other", RenameFlags::EXCHANGE | RenameFlags::NOREPLACE)),
    ("exchange with what is above", |at| renamed(at, "full", "full/below", RenameFlags::EXCHANGE)),
    ("rename to elsewhere", |at| done(rename(at.join("file"), "/dev/shm/new"))),
    ("link to elsewhere", |at| linked(&at.join("file"), Path::new("/dev/shm/new"))),
    ("link of a directory", |at| linked(&at.join("dir"), &at.join("new"))),
    ("link over a file", |at| linked(&at.join("file"), &at.join("other"))),
    ("link of nothing", |at| linked(&at.join("none"), &at.join("new"))),
    ("symlink over a link", |at| done(make_symlink("x", at.join("dangling")))),
    ("symlink to no name", |at| done(make_symlink("", at.join("new")))),
    ("symlink to a longest path", |at| {
        let made = make_symlink("p".repeat(4095), at.join("new"));
        let read = readlink(at.join("new"), Vec::new()).map(|target| target.as_bytes().len().to_string());
        both(made, || unlink(at.join("new"))).and(read)
    }),
    ("symlink to a path that is too long", |at| done(make_symlink("p".repeat(4096), at.join("new")))),
    ("a loop", |at| done(stat(at.join("loop")).map(drop))),
    ("a loop of two", |at| done(stat(at.join("one")).map(drop))),
    ("a loop that is looked at", |at| lstat(at.join("one")).map(|stat| attributes(&stat))),
    ("a loop on the way", |at| done(stat(at.join("loop/file")).map(drop))),
    ("a file on the way", |at| done(stat(at.join("file/.")).map(drop))),
    ("a file on the way up", |at| done(stat(at.join("file/../dir")).map(drop))),
    ("readlink of a file", |at| done(readlink(at.join("file"), Vec::new()).map(drop))),
    ("readlink of nothing", |at| done(readlink(at.join("none"), Vec::new()).map(drop))),
    ("open of a loop", |at| opened(at, "loop", OFlags::RDONLY)),
    ("open of a link without following", |at| opened(at, "link", OFlags::RDONLY | OFlags::NOFOLLOW)),
    ("open of a file as a directory", |at| opened(at, "file", OFlags::RDONLY | OFlags::DIRECTORY)),
    ("open of a directory to write", |at| opened(at, "dir", OFlags::RDWR)),
    ("open of a directory to create", |at| opened(at, "dir", OFlags::RDONLY | OFlags::CREATE)),
    ("open of a file with a slash", |at| opened(at, "file/", OFlags::RDONLY)),
    ("creation of a file with a slash", |at| opened(at, "new/", OFlags::WRONLY | OFlags::CREATE)),
    ("creation of what is there", |at| opened(at, "file", OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)),
    ("creation by a dangling link", |at| {
        opened(at, "dangling", OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)
    }),
    ("open of a pipe without a reader", |at| opened(at, "pipe", OFlags::WRONLY)),
    ("open of a pipe", |at| opened(at, "pipe", OFlags::RDONLY)),
    ("open of a socket", |at| opened(at, "socket", OFlags::RDONLY)),
    ("mknod of what is there", |at| done(mknodat(CWD, at.join("file"), FileType::Fifo, Mode::RWXU, 0))),
    ("truncation of a directory", |at| done(sys::truncate(&at.join("dir"), 0))),
    ("truncation of a pipe", |at| done(sys::truncate(&at.join("pipe"), 0))),
    ("truncation below zero", |at| done(sys::truncate(&at.join("file"), -1))),
    ("listing of a file", |at| names(&at.join("file")).map(|names| format!("{names:?}"))),
    ("listing of nothing", |at| names(&at.join("none")).map(|names| format!("{names:?}"))),
    ("read of a directory", |at| {
        let mut file: File = open(at.join("dir"), OFlags::RDONLY, Mode::empty())?.into();
        file.read(&mut [0; 8]).map(|len| len.to_string()).map_err(|error| errno(&error))
    }),
    ("read of a file that is open to write", |at| {
        let mut file: File = open(at.join("file"), OFlags::WRONLY, Mode::empty())?.into();
        file.read(&mut [0; 8]).map(|len| len.to_string()).map_err(|error| errno(&error))
    }),
    ("write to a file that is open to read", |at| {
        let mut file: File = open(at.join("file"), OFlags::RDONLY, Mode::empty())?.into();
        file.write(&[0; 8]).map(|len| len.to_string()).map_err(|error| errno(&error))
    }),
    ("read beyond the end", |at| {
        let file: File = open(at.join("file"), OFlags::RDONLY, Mode::empty())?.into();
        file.read_at(&mut [0; 8], 1 << 40).map(|len| len.to_string()).map_err(|error| errno(&error))
    }),
    ("a write at the end of all", |at| {
        let file: File = open(at.join("file"), OFlags::WRONLY, Mode::empty())?.into();
        file.write_at(&[0; 8], i64::MAX as u64).map(|len| len.to_string()).map_err(|error| errno(&error))
    }),
    ("the first data", |at| sought(at, SeekFrom::Data(0))),
    ("the first hole", |at| sought(at, SeekFrom::Hole(0))),
    ("data beyond the end", |at| sought(at, SeekFrom::Data(100))),
    ("a hole beyond the end", |at| sought(at, SeekFrom::Hole(100))),
    ("a hole that would change the size", |at| allocated(at, FallocateFlags::PUNCH_HOLE, 1)),
    ("an allocation of nothing", |at| allocated(at, FallocateFlags::empty(), 0)),
    ("a copy within itself", |at| {
        let file = open(at.join("file"), OFlags::RDWR, Mode::empty())?;
        copy_file_range(&file, Some(&mut 0), &file, Some(&mut 2), 4).map(|len| len.to_string())
    }),
    ("a copy from behind the end", |at| {
        let file = open(at.join("file"), OFlags::RDWR, Mode::empty())?;
        copy_file_range(&file, Some(&mut 100), &file, Some(&mut 0), 4).map(|len| len.to_string())
    }),
    ("an attribute that is not there", |at| attribute(at, "user.none")),
    ("an attribute that is there", |at| attribute(at, "user.there")),
    ("an attribute without a kind", |at| attribute(at, "nothing")),
    ("an attribute whose name is too long", |at| attribute(at, &format!("user.{}", "n".repeat(251)))),
    ("an attribute that is there already", |at| set(at, "file", XattrFlags::CREATE, 5)),
    ("an attribute for a place", |at| {
        let mut room = [0; 2];
        getxattr(at.join("file"), "user.there", &mut room).map(|len| len.to_string())
    }),
    ("an attribute that is too large", |at| set(at, "file", XattrFlags::REPLACE, 65_537)),
    ("an attribute of a link", |at| set(at, "dangling", XattrFlags::empty(), 5)),
    ("an attribute of a pipe", |at| set(at, "pipe", XattrFlags::empty(), 5)),
    ("an attribute that is to be replaced", |at| set(at, "other", XattrFlags::REPLACE, 5)),
    ("removal of no attribute", |at| done(removexattr(at.join("other"), "user.there"))),
];

fn done(result: Answer<()>) -> Answer<String> {
    result.map(|()| String::new())
}

/// What is made is taken away.
fn both(made: Answer<()>, undo: impl FnOnce() -> Answer<()>) -> Answer<String> {
    made.and_then(|()| done(undo()))
}

fn renamed(at: &Path, from: &str, to: &str, flags: RenameFlags) -> Answer<String> {
    done(renameat_with(CWD, at.join(from), CWD, at.join(to), flags))
}

fn linked(from: &Path, to: &Path) -> Answer<String> {
    done(linkat(CWD, from, CWD, to, AtFlags::empty()))
}

fn opened(at: &Path, name: &str, flags: OFlags) -> Answer<String> {
    done(open(at.join(name), flags | OFlags::NONBLOCK, Mode::from_raw_mode(0o666)).map(drop))
}

fn sought(at: &Path, place: SeekFrom) -> Answer<String> {
    seek(open(at.join("file"), OFlags::RDONLY, Mode::empty())?, place).map(|offset| offset.to_string())
}

fn allocated(at: &Path, flags: FallocateFlags, len: u64) -> Answer<String> {
    done(fallocate(open(at.join("file"), OFlags::RDWR, Mode::empty())?, flags, 0, len))
}

fn attribute(at: &Path, name: &str) -> Answer<String> {
    getxattr(at.join("file"), name, &mut [0; 100]).map(|len| len.to_string())
}

fn set(at: &Path, name: &str, flags: XattrFlags, len: usize) -> Answer<String> {
    done(lsetxattr(at.join(name), "user.there", &vec![0; len], flags))
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
