//! Who asks, and who answers: passwords, tokens, TLS.

use std::{fs, process::Command};

use securectr_registry::{Credentials, Host};
use serde_json::json;

use crate::{
    answers::{Answer, Server},
    debian::{PASSWORD, Storage, USERNAME},
    image::Image,
    program::{Outcome, Place, fetch, plain, start_in, with_password},
};

fn fetched_from(host: Host) -> Outcome {
    let place = Place::new();
    fetch(&place.request("registry.example.com/app:1", &[host]))
}

#[test]
fn a_password_is_needed_and_must_be_right() {
    let storage = Storage::new();
    storage.open().push("app", "1", &Image::oci(&[b"layer"]));
    let registry = storage.with_login();
    let host = plain(&registry.address);
    assert!(fetched_from(with_password(host.clone(), USERNAME, PASSWORD)).is_done());
    let wrong = fetched_from(with_password(host.clone(), USERNAME, "guess"));
    assert!(wrong.cause().contains("it refuses the login: wrong username or password"), "{wrong:?}");
    let none = fetched_from(host);
    assert!(none.cause().contains("it asks for a login"), "{none:?}");
}

#[test]
fn tls_needs_who_has_signed() {
    let storage = Storage::new();
    storage.open().push("app", "1", &Image::oci(&[b"layer"]));
    let (registry, authority) = storage.with_tls();
    let port = registry.address.rsplit(':').next().unwrap();
    let host = |name: &str, certificates: &[&String]| Host {
        address: format!("{name}:{port}"),
        plain_http: false,
        certificates: certificates.iter().map(|pem| (*pem).clone()).collect(),
        credentials: None,
    };
    let trusted = fetched_from(host("localhost", &[&authority]));
    assert!(trusted.is_done(), "{trusted:?}");
    let both = format!("{}{authority}", Storage::new().with_tls().1);
    assert!(fetched_from(host("localhost", &[&both])).is_done(), "one of a bundle");
    let place = Place::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_securectr-registry"));
    let bundle = tempfile::NamedTempFile::new().unwrap();
    fs::write(bundle.path(), &both).unwrap();
    command.env("SSL_CERT_FILE", bundle.path());
    let request = place.request("registry.example.com/app:1", &[host("localhost", &[])]);
    let outcome = start_in(command, &request).outcome();
    assert!(outcome.is_done(), "one that the system trusts: {outcome:?}");
    let unknown = fetched_from(host("localhost", &[]));
    assert!(unknown.cause().contains("UnknownIssuer"), "{unknown:?}");
    let another = fetched_from(host("127.0.0.1", &[&authority]));
    assert!(another.cause().contains("not valid for name"), "{another:?}");
    let damaged = fetched_from(host("localhost", &[&"no certificate".to_owned()]));
    assert!(damaged.cause().contains("is not in PEM"), "{damaged:?}");
}

/// A registry that works with tokens: one for whoever has this header.
fn with_tokens(image: Image, wanted: &'static str) -> Server {
    Server::start(move |asked| {
        let realm = format!("Bearer realm=\"http://{}/token\",service=\"test\"", asked.header("host"));
        match asked.path.as_str() {
            path if path.starts_with("/token") && asked.header("authorization") == wanted => {
                Answer::json(200, &json!({"token": "good"}))
            }
            path if path.starts_with("/token") => {
                Answer::json(401, &json!({"details": "\u{1b}[31mno such user"}))
            }
            _ if asked.header("authorization") != "Bearer good" => {
                Answer::json(401, &json!({})).with("WWW-Authenticate", &realm)
            }
            path => Answer::of(&image, path),
        }
    })
}

#[test]
fn a_token_is_fetched_with_the_password() {
    let image = Image::oci(&[b"layer"]);
    let server = with_tokens(image.clone(), "Basic c29tZWJvZHk6c2VjcmV0");
    let right = fetched_from(with_password(plain(&server.address), "somebody", "secret"));
    assert!(right.is_done(), "{right:?}");
    assert!(server.asked().iter().any(|asked| asked.path.contains("scope=repository%3Aapp%3Apull")));
    let wrong = fetched_from(with_password(plain(&server.address), "somebody", "guess"));
    assert!(
        wrong.cause().contains("it refuses the login: {\"details\":\"\\u001b[31mno such user\"}"),
        "{wrong:?}"
    );
    let none = fetched_from(plain(&server.address));
    assert!(none.cause().contains("it asks for a login"), "{none:?}");
    let own = Credentials::Token("good".into());
    assert!(fetched_from(Host { credentials: Some(own), ..plain(&server.address) }).is_done());
    let expired = Credentials::Token("old".into());
    let expired = fetched_from(Host { credentials: Some(expired), ..plain(&server.address) });
    assert!(expired.cause().contains("it denies access"), "{expired:?}");
}

#[test]
fn credentials_stay_with_their_host() {
    let image = Image::oci(&[b"layer"]);
    let own = image.clone();
    let elsewhere = Server::start(move |asked| Answer::of(&own, &asked.path));
    let (target, by_name) = (elsewhere.address.clone(), elsewhere.address.replace("127.0.0.1", "localhost"));
    for location in [target, by_name] {
        let image = image.clone();
        let server = Server::start(move |asked| match asked.header("authorization") {
            "" => Answer::json(401, &json!({})).with("WWW-Authenticate", "Basic realm=\"test\""),
            _ if asked.path.contains("/blobs/") => {
                Answer::json(307, &json!({})).with("Location", &format!("http://{location}{}", asked.path))
            }
            _ => Answer::of(&image, &asked.path),
        });
        let outcome = fetched_from(with_password(plain(&server.address), "somebody", "secret"));
        assert!(outcome.is_done(), "{outcome:?}");
    }
    let asked = elsewhere.asked();
    assert!(
        asked.len() >= 4 && asked.iter().all(|asked| asked.header("authorization").is_empty()),
        "{asked:?}"
    );
}
