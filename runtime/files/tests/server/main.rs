//! The file server in its jail, and a client that says what no kernel would. As root, since its parent is:
//! `cargo test -p securectr-files --test server -- --ignored`.
#![cfg(test)]

mod client;
mod honest;
mod hostile;
