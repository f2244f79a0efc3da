//! Docker's verbs for what is in a container.

use clap::{Args as ClapArgs, Subcommand};
use securectr_image::Name;

use crate::output::Format;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List the processes of a container
    Top(Top),
    /// Copy files between a container and this machine
    #[command(
        override_usage = "securectr cp [OPTIONS] CONTAINER:PATH DEST|-\n       securectr cp [OPTIONS] SRC|- CONTAINER:PATH"
    )]
    Cp(Copy),
    /// List what a container has changed of its image and of its :cow mounts
    ///
    /// A is added, C changed, D deleted. Without a container, list whose changes of :cow mounts wait for apply or discard.
    Diff(Diff),
    /// Make an image of a container
    Commit(Commit),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Diff {
    /// table, json, or a template as in '{{.Kind}} {{.Path}}'
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Format,
    /// Only what it has changed of its :cow mounts
    #[arg(long)]
    pub cow: bool,
    /// The same as a patch of the text in it
    #[arg(short, long, requires = "name")]
    pub patch: bool,
    /// A name or id
    #[arg(value_name = "CONTAINER")]
    pub name: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Commit {
    /// Who has made it
    #[arg(short, long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub author: String,
    /// What it is good for
    #[arg(short, long, value_name = "WORDS", default_value = "", hide_default_value = true)]
    pub message: String,
    /// A line as in a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME or WORKDIR
    #[arg(short, long, value_name = "LINE")]
    pub change: Vec<String>,
    /// Let the container stand still meanwhile
    #[arg(
        short,
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true",
        action = clap::ArgAction::Set
    )]
    pub pause: bool,
    /// A name or id
    #[arg(value_name = "CONTAINER")]
    pub name: String,
    /// The image's name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub image: Option<Name>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Copy {
    /// Keep user and group numbers and all mode bits
    #[arg(short, long)]
    pub archive: bool,
    /// Copy what a link at SRC leads to
    #[arg(short = 'L', long)]
    pub follow_link: bool,
    /// Accepted for docker's sake: nothing is said anyway
    #[arg(short, long, hide = true)]
    pub quiet: bool,
    /// CONTAINER:PATH, a path of this machine, or - for a tar archive on standard input
    #[arg(value_name = "SRC")]
    pub from: String,
    /// CONTAINER:PATH, a path of this machine, or - for a tar archive on standard output
    #[arg(value_name = "DEST")]
    pub to: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Top {
    /// table, json, or a template as in '{{.PID}} {{.CMD}}'
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Format,
    /// A name or id
    #[arg(value_name = "CONTAINER")]
    pub name: String,
    /// Options of ps(1): there is no ps here
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub ps_options: Vec<String>,
}
