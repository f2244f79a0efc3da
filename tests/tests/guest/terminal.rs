//! `-t` gives a real terminal.

use std::process::Command;

use anyhow::Result;
use securectr_tests::{Terminal, image, run_in, securectr};

fn in_terminal(image_name: &str, words: &[&str]) -> Result<Terminal> {
    let mut command: Command = securectr();
    command.args(["run", "-it"]).arg(image(image_name)).args(words);
    Terminal::spawn(&command, 100, 30)
}

#[test]
fn the_terminal_has_our_size_and_follows_it() -> Result<()> {
    let script = "trap 'stty size' WINCH; stty size; echo ready; while :; do sleep 0.1; done";
    let mut terminal = in_terminal("busybox", &["sh", "-c", script])?;
    terminal.expect("30 100")?;
    terminal.expect("ready")?;
    terminal.resize(120, 40)?;
    terminal.expect("40 120")?;
    terminal.type_keys("\x03")?;
    Ok(())
}

#[test]
fn a_shell_reads_what_is_typed_and_ends_with_its_code() -> Result<()> {
    let mut terminal = in_terminal("busybox", &["sh"])?;
    terminal.expect("# ")?;
    terminal.type_keys("echo $((6*7))\r")?;
    terminal.expect("42")?;
    terminal.type_keys("exit 3\r")?;
    assert_eq!(terminal.finish()?, 3);
    Ok(())
}

#[test]
fn ctrl_c_interrupts_what_runs_in_front() -> Result<()> {
    let mut terminal = in_terminal("busybox", &["sh"])?;
    terminal.expect("# ")?;
    terminal.type_keys("sleep 1000; echo after $?\r")?;
    terminal.expect("sleep 1000")?;
    std::thread::sleep(std::time::Duration::from_secs(2));
    terminal.type_keys("\x03")?;
    terminal.expect("# ")?;
    terminal.type_keys("exit\r")?;
    assert_eq!(terminal.finish()?, 130);
    Ok(())
}

#[test]
fn vi_edits_a_file() -> Result<()> {
    let mut terminal = in_terminal("debian", &["bash"])?;
    terminal.expect("# ")?;
    terminal.type_keys("vi /tmp/file\r")?;
    terminal.expect("/tmp/file")?;
    terminal.type_keys("ihello from vi\x1b:wq\r")?;
    terminal.expect("written")?;
    terminal.type_keys("cat /tmp/file; exit 0\r")?;
    terminal.expect("hello from vi")?;
    assert_eq!(terminal.finish()?, 0);
    Ok(())
}

#[test]
fn top_shows_the_containers_processes_only() -> Result<()> {
    let mut terminal = in_terminal("debian", &["top"])?;
    terminal.expect("Tasks:")?;
    terminal.expect("PID USER")?;
    terminal.type_keys("q")?;
    assert_eq!(terminal.finish()?, 0);
    Ok(())
}

#[test]
fn without_a_terminal_of_ours_none_is_given() -> Result<()> {
    let refused = run_in(&["-it"], ["sh"])?;
    assert_eq!(refused.code, 125, "{refused:?}");
    assert!(refused.err().contains("not one"), "{refused:?}");
    Ok(())
}
