use super::*;

fn attributes() -> Attributes {
    Attributes::implied()
}

fn file(path: &str) -> Entry {
    let content = Content { size: path.len() as u64, origin: Origin(0), pieces: Vec::new() };
    Entry { path: path.into(), change: Change::Regular(attributes(), content) }
}

fn directory(path: &str) -> Entry {
    Entry { path: path.into(), change: Change::Directory(attributes()) }
}

fn symlink(path: &str, target: &str) -> Entry {
    Entry { path: path.into(), change: Change::Symlink(attributes(), target.into()) }
}

fn hard_link(path: &str, target: &str) -> Entry {
    Entry { path: path.into(), change: Change::HardLink(target.into()) }
}

fn merge(layers: Vec<Vec<Entry>>) -> Result<Tree, Problem> {
    merge_within(layers, &Limits::default())
}

fn merge_within(layers: Vec<Vec<Entry>>, limits: &Limits) -> Result<Tree, Problem> {
    let mut tree = Tree::new(limits);
    for (layer, entries) in (0..).zip(layers) {
        entries.into_iter().try_for_each(|entry| tree.apply(layer, entry))?;
    }
    Ok(tree)
}

/// Every path, folders with a slash at the end, symbolic links with their target; sorted.
fn paths(tree: &Tree) -> Vec<String> {
    let mut paths = Vec::new();
    let mut left = vec![(NodeId::ROOT, String::new())];
    while let Some((id, prefix)) = left.pop() {
        for (name, link) in &tree.directory(id).unwrap().links {
            let path = format!("{prefix}{}", String::from_utf8_lossy(name));
            match &tree.node(link.node).kind {
                NodeKind::Directory(_) => {
                    paths.push(format!("{path}/"));
                    left.push((link.node, format!("{path}/")));
                }
                NodeKind::Symlink(target) => {
                    paths.push(format!("{path} -> {}", String::from_utf8_lossy(target)))
                }
                _ => paths.push(path),
            }
        }
    }
    paths.sort();
    paths
}

fn merged(layers: Vec<Vec<Entry>>) -> Vec<String> {
    paths(&merge(layers).unwrap())
}

#[test]
fn a_whiteout_hides_what_lower_layers_have_and_nothing_of_its_own_layer() {
    let lower = || vec![file("a"), file("d/x"), file("d/y")];
    assert_eq!(merged(vec![lower(), vec![file(".wh.a")]]), ["d/", "d/x", "d/y"]);
    assert_eq!(merged(vec![lower(), vec![file("d/.wh.x")]]), ["a", "d/", "d/y"]);
    assert_eq!(merged(vec![lower(), vec![file(".wh.d")]]), ["a"]);
    assert_eq!(
        merged(vec![lower(), vec![file(".wh.nothing"), file("no/.wh.folder")]]),
        ["a", "d/", "d/x", "d/y"]
    );
    for own_layer in [vec![file(".wh.a"), file("a")], vec![file("a"), file(".wh.a")]] {
        assert_eq!(merged(vec![lower(), own_layer]), ["a", "d/", "d/x", "d/y"]);
    }
}

#[test]
fn a_folder_made_anew_beside_its_whiteout_holds_nothing_old() {
    let lower = || vec![file("d/old"), file("d/sub/old")];
    let upper = |order: [usize; 3]| {
        let mut entries = [Some(file(".wh.d")), Some(file("d/new")), Some(file("d/sub/new"))];
        order.map(|at| entries[at].take().unwrap()).into()
    };
    for order in [[0, 1, 2], [1, 0, 2], [1, 2, 0]] {
        assert_eq!(merged(vec![lower(), upper(order)]), ["d/", "d/new", "d/sub/", "d/sub/new"], "{order:?}");
    }
}

#[test]
fn an_opaque_folder_hides_all_that_is_older_wherever_its_marker_stands() {
    let lower = || vec![file("d/old"), file("d/sub/old"), file("e")];
    for upper in [
        vec![directory("d"), file("d/.wh..wh..opq"), file("d/new")],
        vec![file("d/new"), file("d/.wh..wh..opq")],
    ] {
        assert_eq!(merged(vec![lower(), upper]), ["d/", "d/new", "e"]);
    }
    // A third layer's additions stay, and its own marker hides the second's.
    let third = vec![file("d/.wh..wh..opq"), file("d/third")];
    assert_eq!(merged(vec![lower(), vec![file("d/new")], third]), ["d/", "d/third", "e"]);
}

#[test]
fn a_whiteout_that_names_no_entry_is_refused() {
    for name in [".wh.", ".wh..", ".wh...", "d/.wh.."] {
        let result = merge(vec![vec![file("d/x")], vec![file(name)]]).map(|tree| paths(&tree));
        assert_eq!(result, Err(Problem::BadWhiteout), "{name}");
    }
    // Bookkeeping of aufs is left out.
    assert_eq!(
        merged(vec![vec![file("d/x"), directory(".wh..wh.plnk"), file(".wh..wh.aufs")]]),
        ["d/", "d/x"]
    );
}

#[test]
fn a_later_entry_replaces_an_earlier_one_of_another_kind() {
    assert_eq!(merged(vec![vec![file("a/b")], vec![file("a")]]), ["a"]);
    assert_eq!(merged(vec![vec![file("a")], vec![directory("a"), file("a/b")]]), ["a/", "a/b"]);
    assert_eq!(merged(vec![vec![symlink("a", "b"), file("b/x")], vec![directory("a")]]), ["a/", "b/", "b/x"]);
    assert_eq!(merged(vec![vec![file("a/b")], vec![directory("a")]]), ["a/", "a/b"]);
}

#[test]
fn a_folder_that_is_stated_again_gets_the_new_attributes() {
    let mut again = attributes();
    again.mode = 0o700;
    let mut tree = merge(vec![
        vec![file("a/b")],
        vec![Entry { path: "a".into(), change: Change::Directory(again.clone()) }],
        vec![Entry { path: "./".into(), change: Change::Directory(again.clone()) }],
    ])
    .unwrap();
    assert_eq!(tree.lookup(b"a").unwrap().attributes, again);
    assert_eq!(tree.node(NodeId::ROOT).attributes, again);
    assert_eq!(paths(&tree), ["a/", "a/b"]);
}

#[test]
fn a_path_that_leads_out_is_refused_and_an_absolute_one_contained() {
    for path in ["../x", "a/../../x", "a/..", "..", "/../x"] {
        assert_eq!(merge(vec![vec![file(path)]]).map(|tree| paths(&tree)), Err(Problem::Traversal), "{path}");
    }
    for target in ["../../etc/passwd", "a/../../b"] {
        assert_eq!(
            merge(vec![vec![hard_link("x", target)]]).map(|tree| paths(&tree)),
            Err(Problem::Traversal)
        );
    }
    assert_eq!(
        merged(vec![vec![file("/etc/passwd"), file("./a//b/./c")]]),
        ["a/", "a/b/", "a/b/c", "etc/", "etc/passwd"]
    );
    assert_eq!(merge(vec![vec![file("a\0b")]]).map(|tree| paths(&tree)), Err(Problem::Nul));
    assert_eq!(merge(vec![vec![file(".")]]).map(|tree| paths(&tree)), Err(Problem::RootNotADirectory));
}

#[test]
fn a_symbolic_link_in_the_way_is_followed_inside_the_tree_alone() {
    let merged_usr = || vec![directory("usr/bin"), symlink("bin", "usr/bin")];
    assert_eq!(
        merged(vec![merged_usr(), vec![file("bin/sh")]]),
        ["bin -> usr/bin", "usr/", "usr/bin/", "usr/bin/sh"]
    );
    // Out of the tree there is nothing: `..` ends at the root, `/` is the root.
    for target in ["/", "../../..", "/../.."] {
        assert_eq!(
            merged(vec![vec![symlink("out", target), file("out/x")]]),
            [format!("out -> {target}"), "x".into()]
        );
    }
    assert_eq!(
        merged(vec![vec![symlink("run", "/var/run"), file("run/x")]]),
        ["run -> /var/run", "var/", "var/run/", "var/run/x"]
    );
    let round = vec![symlink("a", "b"), symlink("b", "a"), file("a/x")];
    assert_eq!(merge(vec![round]).map(|tree| paths(&tree)), Err(Problem::TooManyLinks));
    assert_eq!(
        merge(vec![vec![file("f"), file("f/x")]]).map(|tree| paths(&tree)),
        Err(Problem::NotADirectory)
    );
}

#[test]
fn a_whiteout_is_found_through_a_link_and_removes_the_link_not_its_target() {
    let lower = || vec![file("usr/bin/sh"), symlink("bin", "usr/bin")];
    assert_eq!(merged(vec![lower(), vec![file("bin/.wh.sh")]]), ["bin -> usr/bin", "usr/", "usr/bin/"]);
    assert_eq!(merged(vec![lower(), vec![file(".wh.bin")]]), ["usr/", "usr/bin/", "usr/bin/sh"]);
}

#[test]
fn hard_links_share_a_node_also_across_layers_until_one_is_replaced() {
    let mut tree =
        merge(vec![vec![file("a"), hard_link("b", "/a")], vec![hard_link("d/c", "b"), file("a")]]).unwrap();
    assert_eq!(paths(&tree), ["a", "b", "d/", "d/c"]);
    let mut node = |path: &[u8]| std::ptr::from_ref(tree.lookup(path).unwrap());
    assert_eq!(node(b"b"), node(b"d/c"));
    assert_ne!(node(b"a"), node(b"b"));
}

#[test]
fn a_hard_link_names_a_file_that_is_there() {
    let refused = |entries| merge(vec![entries]).map(|tree| paths(&tree)).unwrap_err();
    assert_eq!(refused(vec![hard_link("b", "a")]), Problem::NoLinkTarget("a".into()));
    assert_eq!(refused(vec![file("d/x"), hard_link("b", "d")]), Problem::LinkToDirectory("d".into()));
    assert_eq!(refused(vec![hard_link("b", "/")]), Problem::LinkToDirectory("/".into()));
    // A link to a symbolic link is a second name for the link itself.
    assert_eq!(
        merged(vec![vec![symlink("l", "/etc/shadow"), hard_link("b", "l")]]),
        ["b -> /etc/shadow", "l -> /etc/shadow"]
    );
}

#[test]
fn each_limit_stops_what_goes_beyond_it_and_says_so() {
    let refused =
        |entries, limits: &Limits| merge_within(vec![entries], limits).map(|tree| paths(&tree)).unwrap_err();
    let limits = Limits { entries: 3, depth: 3, path_bytes: 20, metadata_bytes: 10_000, ..Limits::default() };
    assert!(
        refused((0..4).map(|n| file(&n.to_string())).collect(), &limits)
            .to_string()
            .contains("more than 3 files")
    );
    assert!(
        refused((0..4).map(|_| file("same")).collect(), &limits).to_string().contains("more than 3 files")
    );
    assert!(
        refused((0..4).map(|_| directory("/")).collect(), &limits).to_string().contains("more than 3 files")
    );
    assert_eq!(refused(vec![file("a/b/c/d")], &limits), Problem::TooDeep(3));
    assert_eq!(refused(vec![file(&"x".repeat(21))], &limits), Problem::PathTooLong(20));
    assert_eq!(refused(vec![file(&"x".repeat(256))], &Limits::default()), Problem::NameTooLong);
    let mut heavy = attributes();
    heavy.xattrs.insert(b"user.x".as_slice().into(), vec![1; 20_000].into());
    let heavy = vec![Entry { path: "x".into(), change: Change::Fifo(heavy) }];
    assert!(refused(heavy, &limits).to_string().contains("more than 10000 bytes of names and attributes"));
    // Depth is that of the tree, not of the path as it is written.
    let deep = vec![symlink("s", "a/b"), directory("s/c"), file("s/c/d/e")];
    assert_eq!(refused(deep, &Limits { depth: 3, ..Limits::default() }), Problem::TooDeep(3));
}

#[test]
fn a_link_target_must_be_a_path() {
    for target in ["", "a\0b", &"x".repeat(4096)] {
        assert_eq!(
            merge(vec![vec![symlink("l", target)]]).map(|tree| paths(&tree)),
            Err(Problem::BadSymlink)
        );
    }
}

#[test]
fn lookup_follows_links_inside_the_tree() {
    let mut tree = merge(vec![vec![
        file("usr/etc/passwd"),
        symlink("etc", "/usr/etc"),
        symlink("usr/etc/link", "../../../etc/passwd"),
        symlink("round", "round"),
    ]])
    .unwrap();
    assert!(matches!(tree.lookup(b"/etc/passwd").unwrap().kind, NodeKind::Regular(_)));
    assert!(matches!(tree.lookup(b"/etc/link").unwrap().kind, NodeKind::Regular(_)));
    assert!(tree.lookup(b"/etc/shadow").is_none() && tree.lookup(b"round").is_none());
}

/// Whiteouts that repeat must not cost a search of the whole tree each.
#[test]
fn a_million_whiteouts_of_a_large_tree_take_no_time() {
    let mut tree = merge(vec![(0..2000).map(|n| file(&format!("d/{n}/x"))).collect()]).unwrap();
    let own = (0..2000).map(|n| file(&format!("e/{n}/x")));
    own.for_each(|entry| tree.apply(1, entry).unwrap());
    let start = std::time::Instant::now();
    for _ in 0..100_000 {
        tree.apply(1, file(".wh..wh..opq")).unwrap();
        tree.apply(1, file(".wh.e")).unwrap();
    }
    assert!(start.elapsed().as_secs() < 20);
    assert_eq!(paths(&tree).len(), 4001);
}
