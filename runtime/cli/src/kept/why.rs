//! `why`: the one cause of a container's end, in one sentence.

use anyhow::Result;

use super::args::Why;
use crate::{
    args::Global,
    container::{Ended, OfRun, Status, locate_of_run},
    output,
};

pub(super) fn why(why: &Why, global: &Global) -> Result<u8> {
    output::lines([sentence(&why.name, &locate_of_run(global, &why.name)?)])?;
    Ok(0)
}

fn sentence(name: &str, listed: &OfRun) -> String {
    let status = listed.record.status;
    if status != Status::Stopped {
        let lost = listed.kept.cut_off.as_ref();
        let lost =
            lost.map_or_else(String::new, |words| format!(", but it has no network any more: {words}"));
        return format!("{name} is {}: it has not ended{lost}", status.name());
    }
    let Some(ended) = &listed.kept.ended else {
        return format!("{name} ended because its monitor was killed");
    };
    format!("{name} ended at {} because {}", ended.at, cause(ended))
}

/// What made the others happen is told, not what followed: a machine that is gone has no program that ended.
fn cause(ended: &Ended) -> String {
    let code = ended.code;
    match (&ended.cause, ended.oom_killed, ended.asked) {
        (Some(cause), ..) => cause.clone(),
        (None, true, _) => format!("its memory ran out and its kernel killed a process (exit code {code})"),
        (None, false, Some(signal)) => format!("it was sent signal {signal} (exit code {code})"),
        (None, false, None) if code > 128 => format!("signal {} ended its program", code - 128),
        (None, false, None) => format!("its program ended with exit code {code}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cause_is_told() {
        let ended = |code, oom_killed, cause: Option<&str>, asked| {
            cause_of(Ended { code, at: String::new(), oom_killed, cause: cause.map(str::to_owned), asked })
        };
        assert_eq!(ended(3, false, None, None), "its program ended with exit code 3");
        assert_eq!(ended(137, false, None, None), "signal 9 ended its program");
        assert!(ended(137, true, None, Some(15)).contains("memory ran out"));
        assert!(ended(143, false, None, Some(15)).contains("signal 15"));
        assert_eq!(ended(137, true, Some("the machine is gone"), Some(9)), "the machine is gone");
    }

    fn cause_of(ended: Ended) -> String {
        cause(&ended)
    }
}
