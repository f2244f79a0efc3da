//! Programs that run untrusted code by the library.

use std::time::Duration;

use anyhow::Result;
use securectr_sdk::{Cause, Error, Sandbox};
use securectr_tests::{image, no_process_is_left, program};

fn sandbox() -> Sandbox {
    let store = std::env::temp_dir().join("securectr-tests-store");
    Sandbox::new(image("busybox")).program(program("securectr")).store(store)
}

#[test]
fn a_snippet_gives_back_streams_status_and_files() -> Result<()> {
    let script = "read line; echo $line $A; echo err >&2; cat data/in >out; pwd; exit 3";
    let sandbox =
        sandbox().file("run.sh", script).file("data/in", "content").input("typed\n").environment("A", "1");
    let done = sandbox.run(["sh", "run.sh"])?;
    assert_eq!((done.code, done.cause, done.message), (3, Cause::Exit, None));
    assert_eq!((done.stdout.as_slice(), done.stderr.as_slice()), (&b"typed 1\n/work\n"[..], &b"err\n"[..]));
    assert_eq!(done.files.read("out", 100)?, b"content");
    no_process_is_left()
}

#[test]
fn what_a_snippet_may_not_have_ends_it_with_its_cause() -> Result<()> {
    let run = |sandbox: Sandbox, script: &str| sandbox.run(["sh", "-c", script]);
    for (limited, script, cause) in [
        (sandbox().time(Duration::from_secs(1)), "sleep 1000", Cause::Time),
        (sandbox().cpu_time(Duration::from_secs(1)), "while :; do :; done", Cause::CpuTime),
        (sandbox().output_bytes(1000), "yes", Cause::Output),
        (sandbox().memory_bytes(32 << 20), "tail /dev/zero", Cause::Memory),
    ] {
        let done = run(limited, script)?;
        assert_eq!((done.code, done.cause), (137, cause), "{script}: {done:?}");
    }
    assert_eq!(sandbox().run(["/no/such"])?.cause, Cause::NotExecuted);
    assert!(run(sandbox(), "ip link | grep -v LOOPBACK | grep UP").is_ok_and(|done| done.code == 1));
    Ok(())
}

#[test]
fn a_snippet_cannot_lead_its_caller_elsewhere() -> Result<()> {
    let done = sandbox().run(["sh", "-c", "ln -s /etc/shadow link; mkfifo fifo; ln -s / root"])?;
    for path in ["link", "fifo", "root/etc/passwd"] {
        assert!(matches!(done.files.read(path, 100), Err(Error::File { .. })), "{path}");
    }
    Ok(())
}

#[test]
fn an_image_that_is_not_there_is_an_error_in_words() {
    let error =
        Sandbox::new("oci-archive:/no/such.tar").program(program("securectr")).run(["true"]).unwrap_err();
    assert!(matches!(&error, Error::Sandbox(words) if words.contains("/no/such.tar")), "{error:?}");
}
