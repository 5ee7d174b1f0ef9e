//! Credentials that a program of the kubeconfig hands out (Kubernetes' manual, "client-go credential
//! plugins").
//!
//! The library runs such a program without a limit, and one that hangs would keep the store from ever
//! being reached again. So it is run here: bounded, and ended with all that it started.

use std::io::IsTerminal as _;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use kube::config::{AuthInfo, ExecConfig, ExecInteractiveMode};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};

/// What is read of a program's output; credentials are a few kilobytes.
const LONGEST: u64 = 1024 * 1024;

/// What a program hands out.
#[derive(Deserialize)]
struct Credential {
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    expiration_timestamp: Option<Timestamp>,
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
}

/// Why there are none. Neither how the program was called is told, nor what it printed on its output:
/// they may be secret.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the kubeconfig has a program for credentials without a command")]
    NoCommand,
    #[error("the kubeconfig's program for credentials, {command}, cannot be run: {cause}")]
    NotRun {
        command: String,
        cause: std::io::Error,
    },
    #[error("the kubeconfig's program for credentials, {command}, was ended after {limit:.1?}")]
    Hung { command: String, limit: Duration },
    #[error("the kubeconfig's program for credentials, {command}, failed with {status}: {said}")]
    Failed {
        command: String,
        status: std::process::ExitStatus,
        /// The last line of its log.
        said: String,
    },
    #[error("the kubeconfig's program for credentials, {command}, handed none out: {cause}")]
    NotHandedOut { command: String, cause: String },
}

/// Puts what the program of a user hands out in the program's place, if there is one whose turn it
/// is; until when it is good, if the program says. The program has so long.
pub(super) async fn fill(user: &mut AuthInfo, limit: Duration) -> Result<Option<Timestamp>, Error> {
    let has_others = user.auth_provider.is_some()
        || (user.username.is_some() && user.password.is_some())
        || user.token.is_some()
        || user.token_file.is_some();
    let Some(program) = user.exec.take().filter(|_| !has_others) else {
        return Ok(None);
    };
    let status = run(&program, limit).await?;
    match (status.client_certificate_data, status.client_key_data) {
        (Some(certificate), Some(key)) => {
            user.client_certificate_data = Some(BASE64.encode(certificate));
            user.client_key_data = Some(BASE64.encode(key).into());
        }
        _ => user.token = status.token.map(Into::into),
    }
    Ok(status.expiration_timestamp)
}

async fn run(program: &ExecConfig, limit: Duration) -> Result<Status, Error> {
    let name = program.command.clone().ok_or(Error::NoCommand)?;
    let not_run = |cause| Error::NotRun {
        command: name.clone(),
        cause,
    };
    let mut child = command(program, &name).spawn().map_err(not_run)?;
    let group = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    let Ok(ended) = tokio::time::timeout(limit, ended(&mut child)).await else {
        // What it started may be what hangs. Where it talks to people it has no group of its own.
        if let Some(group) = group.filter(|_| !talks(program)) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let command = name;
        return Err(Error::Hung { command, limit });
    };
    let (status, output, said) = ended.map_err(not_run)?;
    if !status.success() {
        let said = String::from_utf8_lossy(&said);
        let said = said.trim().lines().next_back().unwrap_or_default();
        return Err(Error::Failed {
            command: name,
            status,
            said: said.to_owned(),
        });
    }
    let not_handed_out = |cause: String| Error::NotHandedOut {
        command: name.clone(),
        cause,
    };
    let credential: Credential = serde_saphyr::from_slice(&output)
        .map_err(|_| not_handed_out("no ExecCredential".into()))?;
    let status = credential.status;
    status.ok_or_else(|| not_handed_out("an ExecCredential without a status".into()))
}

/// How it ended, its output, and its log.
async fn ended(child: &mut Child) -> std::io::Result<(std::process::ExitStatus, Vec<u8>, Vec<u8>)> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (output, said) = tokio::try_join!(text(stdout), text(stderr))?;
    Ok((child.wait().await?, output, said))
}

async fn text(pipe: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(LONGEST).read_to_end(&mut text).await?;
    }
    Ok(text)
}

/// Whether it may ask whoever sits at the terminal.
fn talks(program: &ExecConfig) -> bool {
    program.interactive_mode != Some(ExecInteractiveMode::Never) && std::io::stdin().is_terminal()
}

fn command(program: &ExecConfig, name: &str) -> Command {
    let talks = talks(program);
    let mut spec = serde_json::json!({ "interactive": talks });
    if let Some(cluster) = program
        .cluster
        .as_ref()
        .filter(|_| program.provide_cluster_info)
    {
        spec["cluster"] = serde_json::to_value(cluster).unwrap_or_default();
    }
    let asked = serde_json::json!({
        "kind": "ExecCredential", "apiVersion": program.api_version, "spec": spec,
    });
    let mut command = Command::new(name);
    command.args(program.args.iter().flatten());
    for variable in program.env.iter().flatten() {
        if let (Some(name), Some(value)) = (variable.get("name"), variable.get("value")) {
            command.env(name, value);
        }
    }
    command
        .env("KUBERNETES_EXEC_INFO", asked.to_string())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    if talks {
        command.stdin(Stdio::inherit()).stderr(Stdio::inherit());
    } else {
        let stdin = command.stdin(Stdio::null());
        stdin.stderr(Stdio::piped()).process_group(0);
    }
    command
}
