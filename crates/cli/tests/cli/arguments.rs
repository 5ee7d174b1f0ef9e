//! Flags, their defaults, the environment, and what is said of values that are wrong.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use stolon_cli::args::{self, Daemon, Flag, Kind, Source, keeper, proxy, sentinel};
use stolon_cli::{Parsed, ctl};

use crate::program::{run, run_with};

/// The contract's flags: name, default, and whether it is yes or no.
type Contract = &'static [(&'static str, &'static str, bool)];

const COMMON: Contract = &[
    ("cluster-name", "", false),
    ("store-backend", "", false),
    ("store-endpoints", "", false),
    ("store-timeout", "5s", false),
    ("store-prefix", "stolon/cluster", false),
    ("store-cert-file", "", false),
    ("store-key", "", false),
    ("store-ca-file", "", false),
    ("store-skip-tls-verify", "false", true),
    ("metrics-listen-address", "", false),
    ("kube-resource-kind", "configmap", false),
    ("log-level", "info", false),
];
const DAEMON: Contract = &[("log-color", "", true), ("debug", "", true)];
const KEEPER: Contract = &[
    ("uid", "", false),
    ("id", "", false),
    ("data-dir", "", false),
    ("pg-listen-address", "", false),
    ("pg-port", "5432", false),
    ("pg-advertise-address", "", false),
    ("pg-advertise-port", "", false),
    ("pg-bin-path", "", false),
    ("pg-repl-auth-method", "md5", false),
    ("pg-repl-username", "", false),
    ("pg-repl-password", "", false),
    ("pg-repl-passwordfile", "", false),
    ("pg-su-auth-method", "md5", false),
    ("pg-su-username", "", false),
    ("pg-su-password", "", false),
    ("pg-su-passwordfile", "", false),
    ("can-be-master", "true", true),
    ("can-be-synchronous-replica", "true", true),
    ("disable-data-dir-locking", "false", true),
];
const SENTINEL: Contract = &[("initial-cluster-spec", "", false)];
const PROXY: Contract = &[
    ("listen-address", "127.0.0.1", false),
    ("port", "5432", false),
    ("stop-listening", "true", true),
    ("tcp-keepalive-idle", "0", false),
    ("tcp-keepalive-count", "0", false),
    ("tcp-keepalive-interval", "0", false),
];
const CTL: Contract = &[
    ("kubeconfig", "", false),
    ("kube-context", "", false),
    ("kube-namespace", "", false),
];

/// Reads a command line of these flags as the programs do.
fn read(flags: &[Flag], words: &[String], environment: &[(String, &str)]) -> args::Values {
    let command = clap::Command::new("x")
        .args_override_self(true)
        .args(args::arguments(flags, "X"));
    let words = std::iter::once("x".to_owned()).chain(words.iter().cloned());
    let matches = command.try_get_matches_from(words).expect("understood");
    let variable = |name: &str| {
        let found = environment.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    args::values(flags, &matches, "X", &variable)
}

#[test]
fn every_flag_of_the_contract_is_there_with_default_and_variable() {
    let programs = [
        (keeper::DAEMON.flags(), [COMMON, DAEMON, KEEPER].concat()),
        (
            sentinel::DAEMON.flags(),
            [COMMON, DAEMON, SENTINEL].concat(),
        ),
        (proxy::DAEMON.flags(), [COMMON, DAEMON, PROXY].concat()),
        (ctl::flags(), [COMMON, CTL].concat()),
    ];
    for (flags, contract) in programs {
        for (name, default, is_bool) in contract {
            let flag = flags.iter().find(|flag| flag.name == name);
            let flag = flag.unwrap_or_else(|| panic!("no flag --{name}"));
            assert_eq!(flag.default, default, "--{name}");
            let found = matches!(flag.kind, Kind::Bool | Kind::DeprecatedBool(_));
            assert_eq!(found, is_bool, "--{name}");
            check_precedence(flag, is_bool);
        }
    }
    assert_eq!(
        [
            keeper::DAEMON.prefix,
            sentinel::DAEMON.prefix,
            proxy::DAEMON.prefix,
            ctl::PREFIX
        ],
        ["STKEEPER", "STSENTINEL", "STPROXY", "STOLONCTL"]
    );
}

/// The command line wins over the environment, that over the default; empty is unset; the last of
/// several wins.
fn check_precedence(flag: &Flag, is_bool: bool) {
    let name = flag.name;
    let variable = format!("X_{}", name.to_uppercase().replace('-', "_"));
    let (one, other) = if is_bool {
        ("t", "0")
    } else {
        ("one", "other")
    };
    let check = |words: &[String], value: Option<&str>, expected: (&str, Source)| {
        let environment: Vec<_> = value.map(|v| (variable.clone(), v)).into_iter().collect();
        let values = read(&[*flag], words, &environment);
        let got = (values.text(name), values.source(name));
        assert_eq!(got, expected, "--{name}: {words:?} {environment:?}");
    };
    check(&[], None, (flag.default, Source::Default));
    check(&[], Some(""), (flag.default, Source::Default));
    check(&[], Some(other), (other, Source::Environment));
    let equal = format!("--{name}={one}");
    check(
        std::slice::from_ref(&equal),
        Some(other),
        (one, Source::Flag),
    );
    check(
        &[format!("--{name}={other}"), equal],
        None,
        (one, Source::Flag),
    );
    if is_bool {
        check(&[format!("--{name}")], Some(other), ("true", Source::Flag));
    } else {
        let apart = [format!("--{name}"), one.to_owned()];
        check(&apart, Some(other), (one, Source::Flag));
    }
}

/// Parses a command line that is whole but for `words`, which are divided by blanks.
fn parse<C>(
    daemon: &Daemon<C>,
    base: &str,
    words: &str,
    environment: &[(&str, &str)],
) -> Result<C, String> {
    let words = base.split_whitespace().chain(words.split_whitespace());
    let words: Vec<OsString> = std::iter::once("x").chain(words).map(Into::into).collect();
    let environment: BTreeMap<&str, &str> = environment.iter().copied().collect();
    let variable = |name: &str| environment.get(name).map(|text| (*text).to_owned());
    match daemon.parse(&words, &variable) {
        Parsed::Run(config) => Ok(*config),
        Parsed::Refuse(text) => Err(text),
        Parsed::Print(text) => panic!("printed {text}"),
    }
}

const STORE: &str = "--cluster-name=c --store-backend=sqlite --store-endpoints=/nowhere/store.db";
const WHOLE_KEEPER: &str = "--cluster-name=c --store-backend=sqlite \
    --store-endpoints=/nowhere/store.db --data-dir=/nowhere/data --pg-listen-address=10.0.0.1 \
    --pg-su-username=s --pg-su-password=p --pg-repl-username=r --pg-repl-password=q";

#[test]
fn a_keeper_says_what_is_missing_in_the_order_of_the_contract() {
    let steps = [
        ("data dir required", "--data-dir=/nowhere/data"),
        ("cluster name required", "--cluster-name=c"),
        ("store backend type required", "--store-backend=etcdv3"),
        (
            "--pg-listen-address is required",
            "--pg-listen-address=10.0.0.1",
        ),
        ("--pg-repl-username is required", "--pg-repl-username=r"),
        (
            "one of --pg-su-password or --pg-su-passwordfile is required",
            "--pg-su-password=p",
        ),
        (
            "one of --pg-repl-password or --pg-repl-passwordfile is required",
            "--pg-repl-password=q",
        ),
    ];
    let mut words = "--pg-su-username=s".to_owned();
    for (expected, next) in steps {
        let error = parse(&keeper::DAEMON, &words, "", &[]).expect_err("refused");
        assert!(error.starts_with(expected), "{words}: {error}");
        words = format!("{words} {next}");
    }
    parse(&keeper::DAEMON, &words, "", &[]).expect("whole");
}

#[test]
fn what_is_missing_is_said_with_what_to_do() {
    let error = parse(&sentinel::DAEMON, "--cluster-name=c", "", &[]).expect_err("refused");
    assert_eq!(
        error,
        "store backend type required: give --store-backend or set STSENTINEL_STORE_BACKEND, \
         etcdv3, etcdv2, consul, kubernetes, or sqlite for a cluster on one host"
    );
    for (name, words) in [
        (
            "stolon-keeper",
            &["--data-dir=/nowhere", "--cluster-name=c"][..],
        ),
        ("stolon-sentinel", &["--cluster-name=c"]),
        ("stolon-proxy", &["--cluster-name=c"]),
        ("stolonctl", &["--cluster-name=c", "status"]),
    ] {
        let said = [
            "store backend type required",
            "--store-backend",
            "_STORE_BACKEND",
            "etcdv3",
        ];
        run(name, words).fails(1, &said);
    }
}

/// Each wrong value is answered with the flag, the value, and what is valid.
#[test]
fn wrong_values_of_a_keeper_are_refused_with_what_is_valid() {
    let keeper = |words: &str, said: &[&str]| {
        refused(
            parse(&keeper::DAEMON, WHOLE_KEEPER, words, &[]).err(),
            words,
            said,
        );
    };
    keeper(
        "--uid=Keeper-1",
        &[
            "\"Keeper-1\"",
            "lower-case letters, numbers and the underscore",
        ],
    );
    for flag in ["--pg-port", "--pg-advertise-port"] {
        for value in ["0", "65536", "5432x", "-1"] {
            keeper(
                &format!("{flag}={value}"),
                &[flag, value, "a port number, 1 to 65535"],
            );
        }
    }
    keeper(
        "--can-be-master=maybe",
        &["--can-be-master", "\"maybe\"", "true or false"],
    );
    keeper(
        "--can-be-synchronous-replica=",
        &["--can-be-synchronous-replica", "true or false"],
    );
    keeper(
        "--disable-data-dir-locking=2",
        &["--disable-data-dir-locking", "true or false"],
    );
    keeper("--pg-listen-address=,", &["--pg-listen-address", "\",\""]);
    keeper(
        "--pg-ssl-mode=tls",
        &["--pg-ssl-mode", "verify-ca", "\"tls\""],
    );
    keeper(
        "--pg-ssl-mode=verify-full",
        &["verify-full needs --pg-ssl-root-cert"],
    );
    keeper(
        "--pg-ssl-cert=/x",
        &["--pg-ssl-cert and --pg-ssl-key go together"],
    );
    for kind in ["su", "repl"] {
        let flag = format!("--pg-{kind}-auth-method");
        keeper(
            &format!("{flag}=scram"),
            &[&flag, "md5, scram-sha-256, trust", "\"scram\""],
        );
        keeper(
            &format!("{flag}=trust"),
            &["can not utilize", &flag, "trust together with"],
        );
        let file = format!("--pg-{kind}-passwordfile");
        keeper(
            &format!("{file}=/x"),
            &["only one of", &file, "must be provided"],
        );
    }
    keeper(
        "--pg-repl-username=s",
        &["are the same but provided passwords are different"],
    );
}

#[test]
fn wrong_values_of_a_proxy_are_refused_with_what_is_valid() {
    let proxy = |words: &str, said: &[&str]| {
        refused(parse(&proxy::DAEMON, STORE, words, &[]).err(), words, said);
    };
    proxy("--port=0", &["--port", "\"0\"", "1 to 65535"]);
    proxy(
        "--stop-listening=x",
        &["--stop-listening", "\"x\"", "true or false"],
    );
    for value in ["-1s", "10", "soon"] {
        proxy(
            &format!("--hold-timeout={value}"),
            &["--hold-timeout", &format!("{value:?}"), "as 10s, or 0"],
        );
    }
    proxy("--max-held=-1", &["--max-held", "\"-1\"", "0 or more"]);
    proxy("--drain-timeout=x", &["--drain-timeout", "as 10s, or 0"]);
    for value in [
        "16MB", "16,30s", "16mb,30s", "16MB,30", "16MB,0s", "-1MB,1s", "",
    ] {
        proxy(
            &format!("--read-only-max-lag={value}"),
            &["--read-only-max-lag", &format!("{value:?}"), "as 16MB,30s"],
        );
    }
    proxy(
        "--read-only-fallback=maybe",
        &["--read-only-fallback", "\"maybe\"", "primary, refuse"],
    );
    proxy("--read-only-port=5432", &["--read-only-port and --port"]);
    let both = ["--tls-cert-file", "--tls-key-file"];
    for words in ["--tls-cert-file=/c", "--tls-key-file=/k", "--tls-required"] {
        proxy(words, &both);
    }
    let unguarded = "--tls-cert-file=/c --tls-key-file=/k --tls-client-ca-file=/a";
    proxy(unguarded, &["--tls-client-ca-file needs --tls-required"]);
    for flag in ["idle", "count", "interval"] {
        let flag = format!("--tcp-keepalive-{flag}");
        proxy(
            &format!("{flag}=-1"),
            &[&flag, "\"-1\"", "0 (the system's) or more"],
        );
    }
}

#[test]
fn wrong_values_of_any_daemon_are_refused_with_what_is_valid() {
    let sentinel = |words: &str, said: &[&str]| {
        refused(
            parse(&sentinel::DAEMON, STORE, words, &[]).err(),
            words,
            said,
        );
    };
    sentinel(
        "--max-failovers=-1",
        &["--max-failovers", "\"-1\"", "0 or more"],
    );
    sentinel(
        "--initial-cluster-spec=/nowhere/spec",
        &["--initial-cluster-spec", "/nowhere/spec"],
    );
    for value in ["5", "0s", "-1s", "soon"] {
        let words = format!("--store-timeout={value}");
        sentinel(
            &words,
            &["--store-timeout", value, "more than 0, as 5s or 1m30s"],
        );
    }
    sentinel(
        "--log-level=loud",
        &["--log-level", "\"loud\"", "debug, info, warn, error"],
    );
    sentinel(
        "--log-format=xml",
        &["--log-format", "\"xml\"", "text, json"],
    );
    sentinel(
        "--log-color=blue",
        &["--log-color", "\"blue\"", "true or false"],
    );
    sentinel(
        "--store-skip-tls-verify=x",
        &["--store-skip-tls-verify", "\"x\"", "true or false"],
    );
    sentinel(
        "--metrics-listen-address=9100",
        &["--metrics-listen-address", "\"9100\"", ":9100"],
    );
    sentinel(
        "--store-backend=zookeeper",
        &["\"zookeeper\"", "etcdv3", "etcdv2", "consul", "sqlite"],
    );
    sentinel("--store-backend=kubernetes", &["POD_NAME", "metadata.name"]);
    sentinel(
        "--store-backend=kubernetes --kube-resource-kind=endpoints",
        &["--kube-resource-kind", "\"endpoints\"", "configmap"],
    );
    sentinel(
        "--store-token=t",
        &["--store-token is for --store-backend=consul"],
    );
    sentinel(
        "--store-username=u",
        &["--store-username", "etcdv3, etcdv2 or consul"],
    );
    sentinel(
        "--store-backend=etcdv3 --store-username=u",
        &["--store-username", "--store-password-file"],
    );
}

#[test]
fn the_token_for_consul_comes_from_a_flag_a_file_or_the_environment() {
    let access = |words: &str, environment: &[(&str, &str)]| {
        let words = format!("--cluster-name=c {words}");
        let config = parse(&sentinel::DAEMON, &words, "", environment).expect("accepted");
        config.common.store.access
    };
    let shared = [
        ("CONSUL_HTTP_TOKEN", "shared"),
        ("CONSUL_HTTP_TOKEN_FILE", "/shared"),
        ("CONSUL_HTTP_AUTH", "u:p:q"),
    ];
    let found = access("--store-backend=consul", &shared);
    assert_eq!(found.token_file, Some("/shared".into()));
    assert_eq!(found.user, Some(("u".to_owned(), "p:q".to_owned())));
    let found = access("--store-backend=consul --store-token=ours", &shared);
    assert_eq!(
        (found.token.as_deref(), found.token_file),
        (Some("ours"), None)
    );
    let ours = [("STSENTINEL_STORE_TOKEN", "ours"), shared[0]];
    let found = access("--store-backend=consul --store-datacenter=dc2", &ours);
    assert_eq!(found.token.as_deref(), Some("ours"));
    assert_eq!(found.datacenter.as_deref(), Some("dc2"));
    assert!(!format!("{found:?}").contains("ours"), "it is not shown");
    // A machine's environment for Consul is nobody else's.
    assert_eq!(
        access("--store-backend=etcd", &shared),
        stolon_store::Access::default()
    );
}

#[track_caller]
fn refused(error: Option<String>, words: &str, said: &[&str]) {
    let error = error.unwrap_or_else(|| panic!("{words} is accepted"));
    for word in said {
        assert!(error.contains(word), "{words}: no {word:?} in {error:?}");
    }
}

#[test]
fn a_wrong_value_of_the_environment_is_said_to_be_from_there() {
    let environment = [("STPROXY_PORT", "no")];
    let error = parse(&proxy::DAEMON, STORE, "", &environment).expect_err("refused");
    assert_eq!(
        error,
        "invalid argument \"no\" for \"--port\" flag from STPROXY_PORT: it must be a port number, \
         1 to 65535"
    );
    parse(&proxy::DAEMON, STORE, "--port=1", &environment).expect("the flag wins");
}

#[test]
fn values_become_what_they_mean() {
    let environment = [
        ("STKEEPER_UID", "k1"),
        ("STKEEPER_BIN", "/in/the/wild"),
        ("STKEEPER_CAN_BE_MASTER", "false"),
    ];
    let words = "--store-timeout=1m30s ignored words --pg-port=1 --pg-port=7000";
    let keeper = parse(&keeper::DAEMON, WHOLE_KEEPER, words, &environment).expect("understood");
    assert_eq!(keeper.uid.as_deref(), Some("k1"));
    assert!(!keeper.can_be_master && keeper.can_be_synchronous_replica);
    assert_eq!((keeper.port, keeper.advertise_port), (7000, 7000));
    assert_eq!(keeper.advertise_address, "10.0.0.1");
    assert_eq!(keeper.common.store.timeout, Duration::from_secs(90));
    let words = "--tcp-keepalive-idle=5 --stop-listening=f --metrics-listen-address=:9100 --debug";
    let proxy = parse(&proxy::DAEMON, STORE, words, &[]).expect("understood");
    assert_eq!(proxy.keepalive.idle, Some(Duration::from_secs(5)));
    assert_eq!(proxy.keepalive.count, None);
    assert!(!proxy.stop_listening);
    let metrics = proxy.common.metrics_listen_address.expect("given");
    assert_eq!(metrics.to_string(), "0.0.0.0:9100");
    assert_eq!(proxy.common.log.level, tracing::Level::DEBUG);
    assert_eq!(proxy.reading, None);
    let words = "--listen-address=10.0.0.2 --read-only-port=5433 --read-only-max-lag=64kB,1m";
    let proxy = parse(&proxy::DAEMON, STORE, words, &[]).expect("understood");
    let reading = proxy.reading.expect("given");
    assert_eq!(
        (reading.listen_address.as_str(), reading.port),
        ("10.0.0.2", 5433)
    );
    assert_eq!(reading.max_lag.bytes, 64 * 1024);
    assert_eq!(reading.max_lag.time, Duration::from_mins(1));
}

#[test]
fn deprecated_flags_work_and_say_so() {
    let said = run("stolon-keeper", &["--id=k1", "--debug"]).fails(1, &["data dir required"]);
    assert!(
        said.err
            .contains("Flag --id has been deprecated, use --uid instead"),
        "{said:?}"
    );
    assert!(
        said.err.contains("Flag --debug has been deprecated"),
        "{said:?}"
    );
    let keeper = parse(&keeper::DAEMON, WHOLE_KEEPER, "--id=k1", &[]).expect("understood");
    assert_eq!(keeper.uid.as_deref(), Some("k1"));
}

#[test]
fn passwords_come_from_files_without_their_line_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let words: Vec<&str> = WHOLE_KEEPER.split_whitespace().collect();
    let base = &words[..words.len() - 3];
    let check = |su: &str, repl: &str| {
        let su = format!("--pg-su-passwordfile={}", file("su", su));
        let repl = format!("--pg-repl-passwordfile={}", file("repl", repl));
        let words = [base, &["--pg-repl-username=r", &su, &repl]].concat();
        let words: Vec<&str> = words
            .into_iter()
            .filter(|word| !word.starts_with("--pg-su-password="))
            .collect();
        parse(&keeper::DAEMON, &words.join(" "), "", &[])
    };
    let keeper = check("secret\r\n", "other").expect("understood");
    assert_eq!(keeper.superuser.password.as_deref(), Some("secret"));
    assert_eq!(keeper.replication_user.password.as_deref(), Some("other"));
    assert_eq!(
        check("x", "\n").expect_err("refused"),
        "replication user password is empty after removing trailing new line"
    );
    assert_eq!(
        check("\n", "\n").expect_err("refused"),
        "superuser password is empty after removing trailing new line"
    );
}

#[test]
fn root_is_told_to_run_the_keeper_as_somebody_else() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let words: Vec<&str> = WHOLE_KEEPER.split_whitespace().collect();
    let said = ["cannot run as root", "unprivileged", "runuser -u postgres"];
    run("stolon-keeper", &words).fails(1, &said);
}

#[test]
fn stolonctl_takes_the_environment_before_and_after_the_command() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("store.db").display().to_string();
    let environment = [
        ("STOLONCTL_CLUSTER_NAME", "c"),
        ("STOLONCTL_STORE_BACKEND", "sqlite"),
        ("STOLONCTL_STORE_ENDPOINTS", file.as_str()),
    ];
    run_with("stolonctl", &["init", "-y"], &environment, "");
    let elsewhere = "--cluster-name=elsewhere";
    for (words, found) in [
        (&["spec"][..], true),
        (&[elsewhere, "spec"], false),
        (&["spec", elsewhere], false),
        (&["spec", elsewhere, "--cluster-name", "c"], true),
        (&["spec", "--kube-context=x", "--log-level=debug"], true),
    ] {
        let said = run_with("stolonctl", words, &environment, "");
        assert_eq!(said.status == 0, found, "{words:?}: {said:?}");
    }
}
