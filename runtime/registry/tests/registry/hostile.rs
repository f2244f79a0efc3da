//! A registry that lies, floods, stalls and leads astray. Each time there is one error, soon, and nothing but checked blobs and
//! pieces of them is left.

use std::{
    os::unix::process::ExitStatusExt,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    answers::{Answer, Asked, Body, Server},
    image::{Image, OCI_INDEX, OCI_LAYER, descriptor, files, index, noise, sha256},
    program::{Outcome, Place, fetch, plain, with_password},
};

const NAME: &str = "registry.example.com/app:1";

/// It is there for tests whose subject is the second layer, which is last and largest.
fn image() -> Image {
    Image::oci(&[&noise(1, 1000), &noise(2, 400_000)])
}

/// Asks a server that answers like this, and else like an honest one with `image`.
fn fetched(image: &Image, answer: impl Fn(&Asked) -> Option<Answer> + Send + Sync + 'static) -> Outcome {
    let (own, place) = (image.clone(), Place::new());
    let server = Server::start(move |asked| answer(asked).unwrap_or_else(|| Answer::of(&own, &asked.path)));
    let begin = Instant::now();
    let host = with_password(plain(&server.address), "somebody", "secret");
    let outcome = fetch(&place.request(NAME, &[host]));
    assert!(begin.elapsed() < Duration::from_secs(30), "{outcome:?} after {:?}", begin.elapsed());
    if !outcome.is_done() {
        assert_no_more_is_left_than_pieces(&place, image);
    }
    outcome
}

fn assert_no_more_is_left_than_pieces(place: &Place, image: &Image) {
    for (path, bytes) in files(&place.directory.path().join("image")) {
        match path.strip_prefix("blobs/sha256/") {
            Some(hex) => assert_eq!(sha256(&bytes), format!("sha256:{hex}")),
            None => {
                let hex = path.strip_prefix("blobs/partial/").unwrap_or_else(|| panic!("{path} is left"));
                let whole = image.blobs.get(&format!("sha256:{hex}")).unwrap();
                assert!(whole.starts_with(&bytes), "{path} is no piece of its blob");
            }
        }
    }
}

fn assert_fails(case: &str, outcome: &Outcome, cause: &str) {
    assert!(outcome.cause().contains(cause), "{case}: {outcome:?}");
}

/// Instead of a blob.
type Lie = Box<dyn Fn(&[u8]) -> Answer + Send + Sync>;

/// To a question.
type Reply = Box<dyn Fn(&Asked) -> Answer + Send + Sync>;

#[test]
fn a_blob_that_is_not_as_stated_is_refused() {
    let lies: [(&str, Lie, &str); 9] = [
        ("other bytes", Box::new(|blob| bytes(noise(9, blob.len()))), "has another digest"),
        ("fewer", Box::new(|blob| bytes(blob[..1000].to_vec())), "it ended 399000 bytes too soon"),
        (
            "fewer than the host states itself",
            Box::new(|blob| Answer::new(200, Body::Stated(blob[..1000].to_vec(), blob.len()))),
            "at last after 1000 bytes",
        ),
        ("none", Box::new(|_| bytes(Vec::new())), "at last after 0 bytes"),
        ("more", Box::new(|blob| bytes([blob, b"!"].concat())), "it sends more of sha256:"),
        (
            "no end",
            Box::new(|blob| Answer::new(200, Body::Endless(blob.to_vec()))),
            "it sends more of sha256:",
        ),
        ("a stall", Box::new(|blob| Answer::new(200, Body::Stalled(blob[..200_000].to_vec()))), "broke off"),
        (
            "a missing one",
            Box::new(|_| Answer::new(404, Body::Bytes(Vec::new()))),
            "it has not what was asked for",
        ),
        (
            "a failing one",
            Box::new(|_| Answer::json(503, &json!("later"))),
            "an error for now: 503: \"later\"",
        ),
    ];
    for (case, lie, cause) in lies {
        let image = image();
        let (digest, blob) = (image.layers[1].clone(), image.blobs[&image.layers[1]].clone());
        let outcome = fetched(&image, move |asked| asked.path.ends_with(&digest).then(|| lie(&blob)));
        assert_fails(case, &outcome, cause);
    }
}

fn bytes(bytes: Vec<u8>) -> Answer {
    Answer::new(200, Body::Bytes(bytes))
}

#[test]
fn a_range_that_is_none_is_noticed() {
    let rests: [(&str, Lie, &str); 3] = [
        (
            "other bytes",
            Box::new(|rest| Answer::new(206, Body::Bytes(noise(9, rest.len())))),
            "another digest",
        ),
        (
            "more than the rest",
            Box::new(|rest| Answer::new(206, Body::Bytes([rest, rest].concat()))),
            "it sends more of sha256:",
        ),
        ("no such range", Box::new(|_| Answer::new(416, Body::Bytes(Vec::new()))), "an error: 416"),
    ];
    for (case, lie, cause) in rests {
        let image = image();
        let (digest, blob) = (image.layers[1].clone(), image.blobs[&image.layers[1]].clone());
        let outcome = fetched(&image, move |asked| {
            asked.path.ends_with(&digest).then(|| match asked.header("range") {
                "" => Answer::new(200, Body::Stated(blob[..1000].to_vec(), blob.len())),
                range => {
                    assert_eq!(range, "bytes=1000-");
                    lie(&blob[1000..])
                }
            })
        });
        assert_fails(case, &outcome, cause);
    }
}

/// The manifest of [`image`], changed.
fn changed(change: impl Fn(&mut Value)) -> Vec<u8> {
    let mut manifest = serde_json::from_slice(&image().manifest).unwrap();
    change(&mut manifest);
    manifest.to_string().into_bytes()
}

#[test]
fn a_manifest_that_is_none_is_refused() {
    let layer =
        |key: &'static str, value: Value| changed(move |manifest| manifest["layers"][1][key] = value.clone());
    let traversal = "sha256:../../../../../../../../etc/passwd";
    let deep = format!("{}{}", "[".repeat(1 << 20), "]".repeat(1 << 20));
    let many = changed(|manifest| manifest["layers"] = vec![descriptor(OCI_LAYER, b"layer"); 10_000].into());
    let empty = format!(r#"{{"schemaVersion":2,"config":{{}},"layers":[{}{{}}]}}"#, "{},".repeat(1_000_000));
    let twice = |manifest: &mut Value| {
        manifest["layers"][0] = json!({
            "mediaType": OCI_LAYER, "digest": image().layers[1], "size": 7
        })
    };
    let manifests: [(&str, Vec<u8>, &str); 18] = [
        ("no JSON", b"<html>".to_vec(), "understand the manifest sha256:"),
        ("nothing", Vec::new(), "understand the manifest sha256:"),
        ("a digest that is a path", layer("digest", traversal.into()), "understand the manifest sha256:"),
        (
            "a digest of another kind",
            layer("digest", format!("sha512:{}", "a".repeat(128)).into()),
            "only sha256",
        ),
        ("a size that is too small", layer("size", 100.into()), "it sends more of sha256:"),
        ("a size that is too large", layer("size", 400_001.into()), "it ended 1 bytes too soon"),
        ("a size beyond all", layer("size", u64::MAX.into()), "more than 1073741824 bytes of all layers"),
        ("a negative size", layer("size", (-1).into()), "understand the manifest sha256:"),
        ("two sizes of one blob", changed(twice), "is said to have 7 bytes, and 400000 bytes"),
        (
            "a vast configuration",
            changed(|manifest| manifest["config"]["size"] = (1_u64 << 40).into()),
            "configuration",
        ),
        ("10,000 layers", many, "more than 128 layers"),
        ("a million empty layers", empty.into_bytes(), "understand the manifest sha256:"),
        ("deep nesting", deep.into_bytes(), "understand the manifest sha256:"),
        (
            "an unknown kind",
            changed(|manifest| manifest["mediaType"] = "text/plain\u{1b}[31m".into()),
            "(text/plain[31m)",
        ),
        (
            "no image",
            changed(|manifest| manifest["config"]["mediaType"] = "application/x".into()),
            "no image of a container",
        ),
        ("an unknown layer", layer("mediaType", "application/x".into()), "is not understood: application/x"),
        (
            "two readings",
            changed(|manifest| manifest["manifests"] = json!([])),
            "has fields of something else",
        ),
        ("schema 1", br#"{"schemaVersion":1,"name":"app","fsLayers":[]}"#.to_vec(), "schema version 1"),
    ];
    for (case, manifest, cause) in manifests {
        let outcome = fetched(&image(), move |asked| {
            asked.path.ends_with("/manifests/1").then(|| bytes(manifest.clone()))
        });
        assert_fails(case, &outcome, cause);
    }
}

#[test]
fn an_index_that_leads_astray_is_refused() {
    let honest = image();
    let entry = |change: fn(&mut Value)| {
        let mut entry = image().entry("linux/amd64");
        change(&mut entry);
        index(OCI_INDEX, &[entry])
    };
    // Each in the next, the innermost first.
    let mut nested = vec![index(OCI_INDEX, &[honest.entry("linux/amd64")])];
    for level in 0..4 {
        nested.push(index(OCI_INDEX, &[descriptor(OCI_INDEX, &nested[level])]));
    }
    let outermost = nested.last().unwrap().clone();
    let cases = [
        ("another size", entry(|entry| entry["size"] = 7.into()), "where its index says 7"),
        (
            "another manifest",
            entry(|entry| entry["digest"] = sha256(b"x").into()),
            "what it sends is not what was asked for",
        ),
        ("nothing", index(OCI_INDEX, &[]), "only for nothing that states a platform"),
        ("many indexes", outermost, "more than 3"),
    ];
    for (case, body, cause) in cases {
        let (own, nested) = (honest.clone(), nested.clone());
        let outcome = fetched(&honest, move |asked| {
            let digest = asked.path.strip_prefix("/v2/app/manifests/")?;
            let inner = nested.iter().find(|index| digest == sha256(index));
            Some(bytes(match digest {
                "1" => body.clone(),
                _ => inner.unwrap_or(&own.manifest).clone(),
            }))
        });
        assert_fails(case, &outcome, cause);
    }
}

#[test]
fn three_indexes_are_gone_through() {
    let honest = image();
    let inner = index(OCI_INDEX, &[honest.entry("linux/amd64")]);
    let middle = index(OCI_INDEX, &[descriptor(OCI_INDEX, &inner)]);
    let outer = index(OCI_INDEX, &[descriptor(OCI_INDEX, &middle)]);
    let all = [inner, middle, outer];
    let place = Place::new();
    let server = Server::start(move |asked| match asked.path.strip_prefix("/v2/app/manifests/") {
        Some("1") => bytes(all[2].clone()),
        Some(digest) => {
            bytes(all.iter().find(|index| digest == sha256(index)).unwrap_or(&honest.manifest).clone())
        }
        None => Answer::of(&honest, &asked.path),
    });
    let outcome = fetch(&place.request(NAME, &[plain(&server.address)]));
    assert!(outcome.is_done(), "{outcome:?}");
}

#[test]
fn a_host_that_leads_nowhere_is_left() {
    let circle = |asked: &Asked| {
        let path = format!("{}x", asked.path);
        Answer::json(307, &json!({})).with("Location", &path)
    };
    let long = "x".repeat(1 << 20);
    let cases: [(&str, Reply, &str); 8] = [
        ("redirects in a circle", Box::new(circle), "too many redirects"),
        (
            "a redirect to a file",
            Box::new(|_| Answer::json(307, &json!({})).with("Location", "file:///etc/passwd")),
            "it answers with an error: 307",
        ),
        (
            "an answer that stalls",
            Box::new(|_| Answer::new(200, Body::Stalled(vec![b' '; 100]))),
            "speak to it",
        ),
        (
            "no HTTP",
            Box::new(|_| Answer::new(200, Body::Garbage(b"SSH-2.0\r\n".to_vec(), vec![b'x'; 100]))),
            "speak to it",
        ),
        (
            "headers without end",
            Box::new(|_| {
                Answer::new(200, Body::Garbage(b"HTTP/1.1 200 OK\r\n".to_vec(), b"X: y\r\n".to_vec()))
            }),
            "speak to it",
        ),
        (
            "a header without end",
            Box::new(|_| {
                Answer::new(200, Body::Garbage(b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'y'; 100]))
            }),
            "speak to it",
        ),
        (
            "an error of many words",
            Box::new(move |_| {
                Answer::json(400, &json!({"errors": [{"code": "DENIED\u{7}", "message": long}]}))
            }),
            "it answers with an error: DENIED: xxxxxxxx",
        ),
        ("a status of its own", Box::new(|_| Answer::new(299, Body::Bytes(Vec::new()))), "299"),
    ];
    for (case, answer, cause) in cases {
        let outcome =
            fetched(&image(), move |asked| asked.path.contains("/manifests/").then(|| answer(asked)));
        assert_fails(case, &outcome, cause);
    }
}

#[test]
fn a_token_service_that_is_none_is_left() {
    let cases: [(&str, &str, Answer, &str); 4] = [
        ("no JSON", "http://HOST/token", bytes(b"<html>".to_vec()), "Failed to decode registry token"),
        (
            "a token that splits a header",
            "http://HOST/token",
            Answer::json(200, &json!({"token": "a\r\nb: c"})),
            "its token is none",
        ),
        ("a file", "file:///etc/passwd", bytes(Vec::new()), "speak to it"),
        ("a stall", "http://HOST/token", Answer::new(200, Body::Stalled(vec![b' '; 100])), "speak to it"),
    ];
    for (case, realm, answer, cause) in cases {
        let outcome = fetched(&image(), move |asked| {
            let realm = realm.replace("HOST", asked.header("host"));
            Some(match asked.path.as_str() {
                path if path.starts_with("/token") => answer.clone(),
                _ => Answer::json(401, &json!({}))
                    .with("WWW-Authenticate", &format!("Bearer realm=\"{realm}\"")),
            })
        });
        assert_fails(case, &outcome, cause);
    }
}

/// The parent says so then: the program has no memory to say it with.
#[test]
fn an_answer_without_end_takes_no_more_than_the_programs_own_memory() {
    for (case, path, status) in
        [("a manifest", "/manifests/", 200), ("an error", "/manifests/", 500), ("a token", "/token", 200)]
    {
        let outcome = fetched(&image(), move |asked| {
            let realm = format!("Bearer realm=\"http://{}/token\"", asked.header("host"));
            if asked.path.contains(path) {
                return Some(Answer::new(status, Body::Endless(vec![b' '; 1 << 20])));
            }
            (path == "/token").then(|| Answer::json(401, &json!({})).with("WWW-Authenticate", &realm))
        });
        assert_eq!(outcome.status.signal(), Some(6), "{case}: {outcome:?}");
        assert!(outcome.errors.starts_with("memory allocation of "), "{case}: {outcome:?}");
    }
}

#[test]
fn an_index_of_many_entries_is_no_harm() {
    let mut entries = vec![image().entry("linux/s390x"); 12_000];
    entries.push(image().entry("linux/amd64"));
    let all = index(OCI_INDEX, &entries);
    assert!(all.len() > 2 << 20 && all.len() < 4 << 20, "{}", all.len());
    let outcome =
        fetched(&image(), move |asked| asked.path.ends_with("/manifests/1").then(|| bytes(all.clone())));
    assert!(outcome.is_done(), "{outcome:?}");
}
