//! The program, a registry of Debian's, and a server that says what no registry would. Neither root nor KVM is needed:
//! `cargo test -p securectr-registry --test registry`.
#![cfg(test)]

mod answers;
mod debian;
mod honest;
mod hostile;
mod image;
mod jail;
mod logins;
mod program;
mod wire;
