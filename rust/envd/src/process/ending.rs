//! The message for the end of a process.

use sys::wait::Ended;
use wire::process::process_event::EndEvent;

/// The texts that Go uses, which clients compare.
fn signal_text(signal: i32) -> String {
    let text = match signal {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        5 => "trace/breakpoint trap",
        6 => "aborted",
        7 => "bus error",
        8 => "floating point exception",
        9 => "killed",
        10 => "user defined signal 1",
        11 => "segmentation fault",
        12 => "user defined signal 2",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        16 => "stack fault",
        24 => "CPU time limit exceeded",
        25 => "file size limit exceeded",
        31 => "bad system call",
        _ => return format!("signal {signal}"),
    };
    text.to_owned()
}

/// Creates the last event of a process. `out_of_memory`: the kernel killed it or one of its descendants
/// because memory was exhausted.
pub fn end_event(ended: Ended, out_of_memory: bool) -> EndEvent {
    match ended {
        Ended::Exited(code) => {
            let status = format!("exit status {code}");
            let error = (code != 0).then(|| status.clone());
            EndEvent { exit_code: code, exited: true, status, error, signal: 0, out_of_memory }
        }
        Ended::Signaled { signal, core } => {
            let mut status = format!("signal: {}", signal_text(signal));
            if core {
                status.push_str(" (core dumped)");
            }
            let number = u32::try_from(signal).unwrap_or_default();
            let error = Some(status.clone());
            EndEvent { exit_code: -1, exited: false, error, status, signal: number, out_of_memory }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_in_gos_words() {
        let end = end_event(Ended::Exited(0), false);
        assert_eq!((end.exit_code, end.exited, end.status.as_str(), end.error), (0, true, "exit status 0", None));
        let end = end_event(Ended::Signaled { signal: 9, core: false }, true);
        assert_eq!((end.exit_code, end.exited, end.status.as_str()), (-1, false, "signal: killed"));
        assert_eq!(end.error.as_deref(), Some("signal: killed"));
        assert_eq!((end.signal, end.out_of_memory), (9, true));
        assert_eq!(
            end_event(Ended::Signaled { signal: 11, core: true }, false).status,
            "signal: segmentation fault (core dumped)"
        );
    }
}
