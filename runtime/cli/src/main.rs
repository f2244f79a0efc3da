//! `securectr`: containers, each in a microVM of its own.
//!
//! Exit codes: that of the container's command; 128 + the signal that ended it; 125 when securectr itself failed; 126 when the
//! command could not be executed, 127 when it was not found.

mod args;
mod bundle;
mod capabilities;
mod check;
mod checkpoints;
mod container;
mod copies;
mod events;
mod images;
mod inside;
mod inspect;
mod install;
mod kept;
mod oci;
mod output;
mod paths;
mod ports;
mod progress;
mod report;
mod run;
mod signals;
mod spans;
mod streams;
mod system;
mod templates;
mod terminal;
mod timeline;
mod tree;
mod version;
mod volumes;

use std::process::ExitCode;

use crate::{
    args::{Args, Command},
    report::Report,
    timeline::Timeline,
};

/// Our own failure, as for docker run.
pub(crate) const OWN_FAILURE: u8 = 125;

fn main() -> ExitCode {
    let timeline = Timeline::begin();
    let args = match Args::typed() {
        Ok(args) => args,
        Err(usage) => {
            // Help and version come this way too; that standard output is gone is not worth a word.
            let _ = usage.print();
            return ExitCode::from(if usage.use_stderr() { OWN_FAILURE } else { 0 });
        }
    };
    timeline.stamp("arguments");
    let report = Report::new(args.global.log_format, args.global.oci.log.as_deref());
    let result = match &args.command {
        Command::Run(run) if run.from.is_some() => checkpoints::run(run, &args.global),
        Command::Run(run) if run.detach => kept::detach(run, &args.global, &report),
        Command::Run(run) => run::run(run, &args.global, &report, &timeline),
        Command::Check(check) => check::check(check, &args.global),
        Command::Install(options) => install::install(options, &args.global),
        Command::Uninstall(options) => install::uninstall(options),
        Command::Version(version) => version::version(version),
        Command::Completion(completion) => version::completion(completion),
        Command::Man(man) => version::man(man),
        Command::Volume(group) => volumes::act(group, &args.global, &report),
        Command::Template(group) => templates::act(group, &args.global, &report),
        Command::Inspect(inspect) => inspect::inspect(inspect, &args.global, &report),
        Command::Container(group) => system::containers(group, &args.global),
        Command::System(group) => system::act(group, &args.global),
        Command::Info(info) => system::info(info, &args.global),
        Command::Kept(verb) => kept::act(verb, &args.global, &report),
        Command::Checkpoints(verb) => checkpoints::act(verb, &args.global, &report),
        Command::Inside(verb) => inside::act(verb, &args.global, &report),
        Command::Copies(verb) => copies::act(verb, &args.global, &report),
        Command::Image(verb) => images::act(verb, &args.global, &report),
        Command::Oci(verb) => oci::act(verb, &args.global, &report),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report.error(&error);
            // As runc for any failure, and docker but for run.
            ExitCode::from(
                if matches!(
                    args.command,
                    Command::Oci(_)
                        | Command::Volume(_)
                        | Command::Template(_)
                        | Command::Inspect(_)
                        | Command::Image(_)
                        | Command::Kept(_)
                        | Command::Checkpoints(_)
                        | Command::Container(_)
                        | Command::System(_)
                        | Command::Info(_)
                        | Command::Inside(_)
                        | Command::Copies(_)
                ) {
                    1
                } else {
                    OWN_FAILURE
                },
            )
        }
    }
}
