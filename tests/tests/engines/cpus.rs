//! CPUs of running containers, and more of them.

use anyhow::{Result, ensure};
use securectr_tests::{Bundle, Runtime, on_each};
use serde_json::json;

/// What a command in the container says.
fn said(bundle: &Bundle, words: &[&str]) -> Result<String> {
    let finished = bundle.call(&[&["exec", "c1"], words].concat())?;
    ensure!(finished.code == 0, "{finished:?}");
    Ok(finished.out().trim().to_owned())
}

#[test]
fn a_quota_that_is_raised_brings_the_vcpus_for_it() -> Result<()> {
    on_each(|runtime| {
        let bundle = Bundle::new(runtime, &["sleep", "1000"])?;
        bundle.set("linux.resources.cpu", json!({"quota": 50_000, "period": 100_000}))?;
        bundle.create(&[])?;
        bundle.succeed(&["start", "c1"])?;
        if runtime == Runtime::Securectr {
            assert_eq!(said(&bundle, &["nproc"])?, "1");
        }
        bundle.succeed(&["update", "--cpu-quota", "150000", "c1"])?;
        assert_eq!(said(&bundle, &["cat", "/sys/fs/cgroup/cpu.max"])?, "150000 100000");
        if runtime == Runtime::Securectr {
            assert_eq!(said(&bundle, &["nproc"])?, "2");
            // Both work, and the second only since it is allowed to.
            let both = "taskset 1 true && taskset 2 sh -c 'i=0; while [ $i -lt 1000 ]; do i=$((i+1)); done; echo $i'";
            assert_eq!(said(&bundle, &["sh", "-c", both])?, "1000");
        }
        bundle.succeed(&["update", "--cpu-quota", "20000", "c1"])?;
        assert_eq!(said(&bundle, &["cat", "/sys/fs/cgroup/cpu.max"])?, "20000 100000");
        Ok(())
    })
}
