//! Judged by Debian's `fsck.erofs`, which reads the whole image and unpacks it. What only a kernel shows (owners, devices,
//! extended attributes) is in `tests/kernel.rs`.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::limits::Limits;
use crate::tree::{Attributes, Change, Content, Entry, Piece, Tree};

/// All files' data one after the other.
#[derive(Default)]
struct Memory(Vec<u8>);

impl Data for Memory {
    fn read_exact_at(&mut self, _: Origin, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.get(offset as usize..).unwrap_or_default().read_exact(buffer)
    }
}

struct Source {
    tree: Tree,
    memory: Memory,
}

impl Source {
    fn new() -> Self {
        Self { tree: Tree::new(&Limits::default()), memory: Memory::default() }
    }

    fn add(&mut self, path: &str, change: Change) {
        self.tree.apply(0, Entry { path: path.into(), change }).unwrap();
    }

    fn add_file(&mut self, path: &str, data: &[u8]) {
        self.add_sparse(path, data.len() as u64, &[(0, data)]);
    }

    fn add_sparse(&mut self, path: &str, size: u64, segments: &[(u64, &[u8])]) {
        let mut pieces = Vec::new();
        for (at, data) in segments {
            pieces.push(Piece { at: *at, bytes: data.len() as u64, offset: self.memory.0.len() as u64 });
            self.memory.0.extend(*data);
        }
        let content = Content { size, origin: Origin(0), pieces };
        self.add(path, Change::Regular(Attributes::implied(), content));
    }

    fn write(&mut self, path: &Path) -> u64 {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
        let bytes = write(&self.tree, &mut self.memory, &file, &mut |_, _| {}).unwrap();
        assert_eq!(file.metadata().unwrap().len(), bytes);
        assert_eq!(bytes % BLOCK_BYTES, 0);
        bytes
    }

    /// Written, checked and unpacked by `fsck.erofs`.
    fn unpacked(&mut self) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        self.write(&image);
        let root = directory.path().join("root");
        let fsck =
            Command::new("fsck.erofs").arg(format!("--extract={}", root.display())).arg(&image).output();
        let output = fsck.expect("fsck.erofs, of Debian's erofs-utils");
        let text = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
        directory
    }
}

/// Different bytes at each place.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8 + 1).collect()
}

#[test]
fn files_of_each_size_around_a_block_come_back_byte_for_byte() {
    let mut source = Source::new();
    let sizes = [0, 1, 100, 4095, 4096, 4097, 8192, 100_000, (3 << 20) + 1];
    sizes.iter().for_each(|size| source.add_file(&format!("f{size}"), &pattern(*size)));
    let unpacked = source.unpacked();
    for size in sizes {
        let data = fs::read(unpacked.path().join(format!("root/f{size}"))).unwrap();
        assert!(data == pattern(size), "{size}");
    }
}

#[test]
fn directories_of_each_size_list_all_their_names() {
    let mut source = Source::new();
    let mut expected = Vec::new();
    // Names before and after `.` and `..`, and lengths that fill blocks unevenly.
    for count in [0, 1, 2, 20, 60, 250, 255, 256, 3000] {
        let folder = format!("dir{count}");
        source.add(&folder, Change::Directory(Attributes::implied()));
        let mut names: Vec<_> = (0..count)
            .map(|n| {
                let first = ["!", "-", ".a", "0", "~", "..a"][n % 6];
                format!("{first}{n}{}", "x".repeat((n * 37) % 240))
            })
            .collect();
        names.iter().for_each(|name| source.add_file(&format!("{folder}/{name}"), b"x"));
        names.sort();
        expected.push((folder, names));
    }
    let unpacked = source.unpacked();
    for (folder, names) in expected {
        let listed = fs::read_dir(unpacked.path().join("root").join(&folder)).unwrap();
        let mut listed: Vec<_> =
            listed.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        listed.sort();
        assert!(listed == names, "{folder}");
    }
}

#[test]
fn directories_fill_their_blocks_to_the_last_byte() {
    // 12 bytes an entry: `.` and `..` take 27, each of these 267; the sizes pass every place where a tail ends.
    for rest in 0..=255 {
        let mut source = Source::new();
        (0..15).for_each(|n| source.add_file(&format!("{n:0>255}"), b""));
        if rest > 0 {
            source.add_file(&"y".repeat(rest), b"");
        }
        let unpacked = source.unpacked();
        let count = fs::read_dir(unpacked.path().join("root")).unwrap().count();
        assert_eq!(count, 15 + usize::from(rest > 0), "{rest}");
    }
}

#[test]
fn symbolic_links_of_each_length_come_back() {
    let mut source = Source::new();
    let lengths = [1, 59, 60, 3000, 3900, 3967, 3968, 3969, 4000, 4031, 4032, 4033, 4095];
    for length in lengths {
        source.add(&format!("l{length}"), Change::Symlink(Attributes::implied(), vec![b't'; length]));
    }
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    source.write(&image);
    for length in lengths {
        let output =
            Command::new("dump.erofs").arg(format!("--path=/l{length}")).arg(&image).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(&format!("Size: {length} ")), "{text}");
    }
    let unpacked = source.unpacked();
    for length in lengths {
        let target = fs::read_link(unpacked.path().join(format!("root/l{length}"))).unwrap();
        assert_eq!(target.as_os_str().len(), length);
    }
}

/// What such a file reads as is in `tests/kernel.rs`: fsck.erofs 1.5 unpacks it without its holes.
#[test]
fn a_sparse_file_takes_its_data_only() {
    const SIZE: u64 = 300 << 20;
    let mut source = Source::new();
    let middle = pattern(10_000);
    source.add_sparse("sparse", SIZE, &[(5, b"start"), (SIZE / 2 + 77, &middle), (SIZE - 3, b"end")]);
    source.add_sparse("empty", SIZE, &[]);
    // No whole block of it is a hole.
    source.add_sparse("small", 10_000, &[(0, b"a"), (4100, b"b"), (9000, b"tail")]);
    let unpacked = source.unpacked();
    assert!(fs::metadata(unpacked.path().join("image")).unwrap().len() < 1 << 20);
    let small = fs::read(unpacked.path().join("root/small")).unwrap();
    let expected =
        [b"a".to_vec(), vec![0; 4099], b"b".to_vec(), vec![0; 4899], b"tail".to_vec(), vec![0; 996]].concat();
    assert!(small == expected);
}

#[test]
fn a_file_of_terabytes_of_nothing_is_a_table_of_64_kib() {
    let mut source = Source::new();
    source.add_sparse("huge", 16 << 40, &[]);
    let directory = tempfile::tempdir().unwrap();
    assert!(source.write(&directory.path().join("image")) < 128 << 10);
}

#[test]
fn hard_links_are_one_inode_with_all_its_names_counted() {
    let mut source = Source::new();
    source.add_file("a", b"data");
    source.add("d/b", Change::HardLink(b"a".to_vec()));
    source.add("c", Change::HardLink(b"d/b".to_vec()));
    let unpacked = source.unpacked();
    let image = unpacked.path().join("image");
    let nids: Vec<_> = ["/a", "/d/b", "/c"]
        .iter()
        .map(|path| {
            let output =
                Command::new("dump.erofs").arg(format!("--path={path}")).arg(&image).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(text.contains("Links: 3"), "{text}");
            text.split_whitespace().skip_while(|word| *word != "NID:").nth(1).unwrap().to_owned()
        })
        .collect();
    assert!(nids.iter().all(|nid| *nid == nids[0]), "{nids:?}");
    let size = |name: &str| fs::metadata(unpacked.path().join("root").join(name)).unwrap().size();
    assert_eq!((size("a"), size("d/b")), (4, 4));
}

#[test]
fn equal_trees_give_equal_bytes() {
    let write = |reverse: bool| {
        let mut source = Source::new();
        let mut names: Vec<_> = (0..100).map(|n| format!("d{}/f{n}", n % 7)).collect();
        if reverse {
            names.reverse();
        }
        names.iter().for_each(|name| source.add_file(name, name.as_bytes()));
        let directory = tempfile::tempdir().unwrap();
        source.write(&directory.path().join("image"));
        fs::read(directory.path().join("image")).unwrap()
    };
    assert!(write(false) == write(true));
}

#[test]
fn data_begins_at_a_block() {
    let mut source = Source::new();
    (0..50).for_each(|n| source.add_file(&format!("f{n}"), &pattern(n * 100 + 1)));
    let directory = tempfile::tempdir().unwrap();
    source.write(&directory.path().join("image"));
    let image = fs::read(directory.path().join("image")).unwrap();
    for n in 0..50 {
        let data = [pattern(n * 100 + 1), vec![0]].concat();
        assert!(image.chunks(BLOCK_BYTES as usize).any(|block| {
            let length = data.len().min(block.len());
            block[..length] == data[..length]
        }));
    }
}

#[test]
fn more_than_the_format_holds_is_refused() {
    let mut source = Source::new();
    let piece = Piece { at: 0, bytes: 17 << 40, offset: 0 };
    let content = Content { size: 17 << 40, origin: Origin(0), pieces: vec![piece] };
    source.add("f", Change::Regular(Attributes::implied(), content));
    let file = tempfile::tempfile().unwrap();
    let result = write(&source.tree, &mut source.memory, &file, &mut |_, _| {});
    assert!(matches!(result, Err(Error::TooLarge)));
}

#[test]
fn a_first_block_with_any_byte_changed_is_not_taken_for_whole() {
    let mut source = Source::new();
    source.add_file("f", b"x");
    let directory = tempfile::tempdir().unwrap();
    source.write(&directory.path().join("image"));
    let mut block = fs::read(directory.path().join("image")).unwrap();
    block.truncate(BLOCK_BYTES as usize);
    assert!(superblock_is_whole(&block));
    for at in 1024..block.len() {
        block[at] ^= 0x40;
        assert!(!superblock_is_whole(&block), "{at}");
        block[at] ^= 0x40;
    }
    assert!(!superblock_is_whole(&block[..100]) && !superblock_is_whole(&[0; 4096]));
}
