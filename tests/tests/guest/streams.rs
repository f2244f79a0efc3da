//! Standard streams, byte for byte.

use anyhow::Result;
use securectr_tests::{Started, image, run, run_in, securectr};

/// Bytes that no compression and no repetition can hide the loss of.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[test]
fn output_and_errors_stay_apart() -> Result<()> {
    let finished = run(["sh", "-c", "echo out; echo err >&2"])?;
    assert_eq!((finished.out().as_str(), finished.err().as_str()), ("out\n", "err\n"));
    Ok(())
}

#[test]
fn without_interactive_input_is_empty() -> Result<()> {
    let mut command = securectr();
    command.arg("run").arg(image("busybox")).args(["wc", "-c"]);
    assert_eq!(Started::spawn(&mut command)?.finish(b"not for you")?.out().trim(), "0");
    Ok(())
}

#[test]
fn fifty_megabytes_go_in_and_come_back() -> Result<()> {
    let sent = noise(50_000_000);
    let mut command = securectr();
    command.args(["run", "-i"]).arg(image("busybox")).arg("cat");
    let finished = Started::spawn(&mut command)?.finish(&sent)?;
    assert_eq!((finished.code, finished.err().as_str()), (0, ""));
    assert!(finished.stdout == sent, "{} bytes of {} came back", finished.stdout.len(), sent.len());
    Ok(())
}

#[test]
fn a_hundred_thousand_lines_on_both_at_once() -> Result<()> {
    let script = "seq 100000 & seq 100001 200000 >&2; wait";
    let finished = run(["sh", "-c", script])?;
    let lines = |range: std::ops::RangeInclusive<u32>| range.map(|n| format!("{n}\n")).collect::<String>();
    assert!(finished.out() == lines(1..=100_000), "{} bytes of output", finished.stdout.len());
    assert!(finished.err() == lines(100_001..=200_000), "{} bytes of errors", finished.stderr.len());
    Ok(())
}

#[test]
fn a_child_left_in_the_background_does_not_keep_the_container() -> Result<()> {
    let finished = run(["sh", "-c", "sleep 1000 & echo started"])?;
    assert_eq!((finished.code, finished.out().as_str()), (0, "started\n"));
    Ok(())
}

#[test]
fn a_reader_that_leaves_ends_the_writer() -> Result<()> {
    let command = format!(
        "{:?} run {} sh -c 'yes; echo $? >&2' | head -n 1",
        securectr_tests::program("securectr"),
        image("busybox")
    );
    let finished = Started::spawn(std::process::Command::new("sh").arg("-c").arg(command))?.finish(b"")?;
    assert_eq!(finished.out(), "y\n", "{finished:?}");
    Ok(())
}

#[test]
fn standard_streams_can_be_opened_by_name() -> Result<()> {
    let finished = run(["sh", "-c", "echo a > /dev/stdout; echo b > /dev/stderr"])?;
    assert_eq!((finished.out().as_str(), finished.err().as_str()), ("a\n", "b\n"), "{finished:?}");
    Ok(())
}

#[test]
fn input_ends_when_ours_ends() -> Result<()> {
    let mut command = securectr();
    command.args(["run", "-i"]).arg(image("busybox")).args(["sh", "-c", "cat; echo end"]);
    assert_eq!(Started::spawn(&mut command)?.finish(b"line\n")?.out(), "line\nend\n");
    Ok(())
}

#[test]
fn a_hash_is_made_of_all_that_was_sent() -> Result<()> {
    let sent = noise(50_000_000);
    let mut host = Started::spawn(&mut std::process::Command::new("sha256sum"))?.finish(&sent)?.out();
    let mut command = securectr();
    command.args(["run", "-i"]).arg(image("busybox")).arg("sha256sum");
    let guest = Started::spawn(&mut command)?.finish(&sent)?.out();
    host.truncate(64);
    assert!(guest.starts_with(&host), "{guest} is not {host}");
    Ok(())
}

#[test]
fn nothing_of_ours_is_mixed_into_the_output() -> Result<()> {
    let finished = run_in(&["--rm"], ["true"])?;
    assert!(finished.stdout.is_empty() && finished.stderr.is_empty(), "{finished:?}");
    Ok(())
}
