//! What needs a guest. `make test` runs this where KVM can run Linux guests; elsewhere it fails, it is never skipped.

mod checkpoints;
mod copies;
mod failures;
mod images;
mod in_place;
mod inside;
mod install;
mod join;
mod limits;
mod many;
mod nat;
mod network;
mod options;
mod pull;
mod run;
mod sdk;
mod share_speed;
mod shares;
mod stay;
mod streams;
mod templates;
mod terminal;
mod timings;
mod volumes;
mod without_root;
mod work;
