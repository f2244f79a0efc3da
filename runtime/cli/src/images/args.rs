//! Docker's verbs for images.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use securectr_image::{Name, Platform, Reference};

use crate::output::Format;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Fetch an image from a registry
    Pull(Pull),
    /// List the images of this machine
    Images(List),
    /// Add the images of an archive
    Load(Load),
    /// Write images as an archive, which docker, podman and skopeo read
    Save(Save),
    /// Remove images
    Rmi(Remove),
    /// Give an image one more name
    Tag(Tag),
    /// Show how an image was made
    History(History),
    /// Manage images
    Image(Group),
}

/// The same verbs by their longer names
#[derive(Debug, ClapArgs)]
pub(crate) struct Group {
    #[command(subcommand)]
    pub verb: GroupVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GroupVerb {
    /// Fetch an image from a registry
    Pull(Pull),
    /// List the images of this machine
    #[command(visible_alias = "list")]
    Ls(List),
    /// Add the images of an archive
    Load(Load),
    /// Write images as an archive
    Save(Save),
    /// Remove images
    #[command(visible_alias = "remove")]
    Rm(Remove),
    /// Give an image one more name
    Tag(Tag),
    /// Show how an image was made
    History(History),
    /// Print all that is known of images, as JSON
    Inspect(Inspect),
    /// Remove images that have no name, and what was kept of archives
    Prune(Prune),
}

#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Credentials are those of docker login (~/.docker/config.json, helpers included). Mirrors, certificates and registries \
                  without TLS stand in /etc/securectr/registries.toml or ~/.config/securectr/registries.toml:\n\n  \
                  [registries.\"docker.io\"]\n  mirrors = [\"https://mirror.example\"]\n  [registries.\"registry.example:5000\"]\n  \
                  ca = \"/etc/ssl/example.pem\"\n  plain-http = false"
)]
pub(crate) struct Pull {
    /// Say nothing while it goes on
    #[arg(short, long)]
    pub quiet: bool,
    /// For another machine than this, as in linux/arm64
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<Platform>,
    /// As in nginx, nginx:1.27, registry.example:5000/team/app or app@sha256:...
    #[arg(value_name = "NAME")]
    pub name: Name,
}

/// When `run` fetches its image
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PullPolicy {
    Always,
    #[default]
    Missing,
    Never,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct List {
    /// Only images with this name, or in this repository
    #[arg(value_name = "NAME")]
    pub name: Option<Name>,
    /// Accepted for docker's sake: there are no others
    #[arg(short, long, hide = true)]
    pub all: bool,
    /// Ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// Do not shorten ids
    #[arg(long)]
    pub no_trunc: bool,
    /// Show the digests of manifests
    #[arg(long)]
    pub digests: bool,
    /// table, json, or a template as in '{{.Repository}}:{{.Tag}}'
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Format,
}

#[derive(Debug, ClapArgs)]
#[command(
    after_help = "IMAGE is oci-archive:FILE, oci:DIR or docker-archive:FILE, each with an optional :TAG."
)]
pub(crate) struct Load {
    /// An archive of docker save, podman save or skopeo [default: standard input]
    #[arg(short, long, value_name = "FILE", conflicts_with = "image")]
    pub input: Option<PathBuf>,
    /// Say nothing while it goes on
    #[arg(short, long)]
    pub quiet: bool,
    /// The name that the image gets, in place of those that it brings
    #[arg(short, long, value_name = "NAME")]
    pub tag: Option<Name>,
    /// For another machine than this, as in linux/arm64
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<Platform>,
    /// Where the images are
    #[arg(value_name = "IMAGE")]
    pub image: Option<Reference>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Save {
    /// Write to a file [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Names or ids
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Remove {
    /// Remove an image by its id with all its names, and be content when there is none
    #[arg(short, long)]
    pub force: bool,
    /// Names or ids
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Tag {
    /// A name or id
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Its further name
    #[arg(value_name = "NAME")]
    pub name: Name,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct History {
    /// Do not shorten anything
    #[arg(long)]
    pub no_trunc: bool,
    /// Ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// table, json, or a template
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Format,
    /// A name or id
    #[arg(value_name = "IMAGE")]
    pub image: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Inspect {
    /// json, or a template as in '{{.Config.User}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<Format>,
    /// Names or ids
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Prune {
    /// All images, not only those without a name
    #[arg(short, long)]
    pub all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}
