//! What is added to a running container: a process of its own, or work that the agent does in it.

use oci_spec::runtime::Process;
use securectr_protocol::agent::{self, Empty, ExecRequest, Receive, Send, exec_request::What, job};
use serde::{Deserialize, Serialize};

/// Both have streams, a start and an end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Addition {
    Process {
        /// The runtime spec's object.
        process: Box<Process>,
        /// `USER[:GROUP]`, names in the container's own files or numbers, in place of the object's.
        user: Option<String>,
    },
    /// It ends with 0 when it is done, and otherwise with a line of stderr.
    Job(Job),
}

/// What the agent itself can do in a container, also in one that is paused. All that it says is the guest's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Job {
    /// A line of JSON for each process: `pid`, `ppid`, `uid`, `terminal`, `age_s`, `cpu_ms`, `command`.
    Processes,
    /// A file, or a directory with all below it, as a tar archive on standard output.
    Send {
        /// In the container; as `PATH/.` a directory's content.
        path: String,
        /// What a link there leads to, in its place.
        follows: bool,
    },
    /// A tar archive on standard input becomes files.
    Receive { path: String, parcel: Parcel },
    /// A line of JSON for each path of the root that was changed: `kind`, which is A, C or D as docker has it, and `path`.
    Changes,
    /// The same as a layer of an image.
    Layer,
}

/// What is in an archive for a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Parcel {
    /// Anything, for a directory that is there.
    Archive,
    File,
    Directory,
    /// Of a directory, which is called `.` itself.
    Content,
}

impl Addition {
    pub(crate) fn request(&self) -> Result<ExecRequest, serde_json::Error> {
        let (what, user) = match self {
            Self::Process { process, user } => {
                (What::ProcessJson(serde_json::to_vec(process)?), user.clone())
            }
            Self::Job(job) => (What::Job(job.into()), None),
        };
        Ok(ExecRequest { what: Some(what), user: user.unwrap_or_default(), ..Default::default() })
    }
}

impl From<&Job> for agent::Job {
    fn from(job: &Job) -> Self {
        let what = match job {
            Job::Processes => job::What::Processes(Empty::default()),
            Job::Changes => job::What::Changes(Empty::default()),
            Job::Layer => job::What::Layer(Empty::default()),
            Job::Send { path, follows } => {
                job::What::Send(Send { path: path.clone(), follows: *follows, ..Default::default() })
            }
            Job::Receive { path, parcel } => {
                let parcel = match parcel {
                    Parcel::Archive => agent::Parcel::ARCHIVE,
                    Parcel::File => agent::Parcel::FILE,
                    Parcel::Directory => agent::Parcel::DIRECTORY,
                    Parcel::Content => agent::Parcel::CONTENT,
                };
                let path = path.clone();
                job::What::Receive(Receive { path, parcel: parcel.into(), ..Default::default() })
            }
        };
        Self { what: Some(what), ..Default::default() }
    }
}
