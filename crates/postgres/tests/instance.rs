//! Stories of instances on the PostgreSQL of this machine.

#[path = "support/server.rs"]
mod server;

#[path = "support/secured.rs"]
mod secured;

use rustix::process::Signal;
use server::{LIMIT, Server, eventually, send, story};
use stolon_core::model::TimelineId;
use stolon_postgres::Installation;
use stolon_postgres::process::{Postmaster, StopMode, kill_all};
use stolon_postgres::query::{Observation, Target};
use stolon_postgres::tls::{SslMode, Tls};
use stolon_postgres::{basebackup, check, config_files, controldata, data_dir, history};

/// A keeper that is killed leaves its `pg_basebackup` behind, which may go on writing.
#[test]
fn a_copy_ends_the_one_that_a_killed_keeper_left() {
    story("a_copy_ends_the_one_that_a_killed_keeper_left", async {
        let primary = Server::primary().await;
        let copy = Server::new();
        let session = primary.session().await;
        session.create_slot("stolon_cafe0002").await.expect("slot");
        let info = primary.conninfo("stolon_cafe0002");
        let password_file = copy.folder.path().join("pgpass");
        data_dir::replace_file(&password_file, info.password_line().as_bytes()).expect("a file");
        let left = copy
            .installation
            .command("pg_basebackup")
            .env("PGPASSFILE", &password_file)
            .arg("-D")
            .arg(copy.pgdata())
            .arg("-d")
            .arg(info.to_text_without_password())
            // It would be at it for minutes.
            .args(["-X", "none", "--checkpoint=fast", "--max-rate=32k"])
            .kill_on_drop(true)
            .spawn();
        let left = left.expect("it runs");
        eventually("it writes", || async {
            let content = data_dir::content(&copy.pgdata()).expect("readable");
            (content != data_dir::Content::Nothing).then_some(())
        })
        .await;

        // It sleeps through the emptying of the folder, which would end it by itself.
        let pid = left.id().expect("it runs");
        send(i32::try_from(pid).expect("a pid"), Signal::STOP);
        // An ended process whose parent has not asked for its end has no program any more.
        let program = format!("/proc/{pid}/exe");
        let mut alive = Vec::new();
        let look = |_| alive.push(std::fs::read_link(&program).is_ok());
        let (target, slot) = (copy.pgdata(), "stolon_cafe0002");
        basebackup::run(&copy.installation, &target, &info, slot, LIMIT, look)
            .await
            .expect("a copy");
        assert!(!alive.is_empty() && !alive.contains(&true), "{alive:?}");
        let content = data_dir::content(&copy.pgdata()).expect("readable");
        assert_eq!(content, data_dir::Content::Cluster);
    });
}

#[test]
fn a_standby_streams_and_takes_over() {
    story("a_standby_streams_and_takes_over", async {
        let primary = Server::primary().await;
        primary
            .value("CREATE TABLE public.t AS SELECT 42 AS a")
            .await;
        let standby = Server::standby_of(&primary, "stolon_cafe0002").await;

        let seen = standby
            .observed("it streams", |seen| seen.streams_from.is_some())
            .await;
        assert!(seen.in_recovery);
        assert_eq!(
            seen.streams_from,
            Some(("127.0.0.1".into(), primary.port.to_string()))
        );
        assert_eq!(standby.value("SELECT a FROM public.t").await, "42");

        let at_primary = primary
            .observed("the standby has all", |seen| {
                seen.peers
                    .iter()
                    .any(|peer| peer.flush_lsn == seen.flush_lsn)
            })
            .await;
        assert_eq!(at_primary.peers[0].name, "stolon_cafe0002");
        assert_eq!(at_primary.peers[0].state, "streaming");
        assert_eq!(at_primary.slots[0].name, "stolon_cafe0002");
        assert!(at_primary.slots[0].active && at_primary.slots[0].physical);
        assert_eq!(at_primary.system_id, seen.system_id);
        assert_eq!((at_primary.timeline.0, seen.timeline.0), (1, 1));

        primary.stop(StopMode::Fast).await;
        let control = controldata::read(&primary.installation, &primary.pgdata())
            .await
            .expect("control data");
        assert_eq!(control.state, controldata::ClusterState::ShutDown);
        assert_eq!(control.system_id, seen.system_id);

        let session = standby.session().await;
        session.promote().await.expect("promotion");
        let seen = standby
            .observed("it is writable", |seen| !seen.in_recovery)
            .await;
        assert_eq!(seen.timeline.0, 2);
        let switches = history::read(&standby.pgdata(), seen.timeline);
        assert_eq!(switches.len(), 1);
        assert!(switches[0].switch_point > control.checkpoint);
        session.promote().await.expect("a promotion again");
        standby.value("INSERT INTO public.t VALUES (43)").await;
    });
}

#[test]
fn a_promotion_passes_over_timelines_that_may_have_begun() {
    story(
        "a_promotion_passes_over_timelines_that_may_have_begun",
        async {
            let primary = Server::primary().await;
            let mut standby = Server::standby_of(&primary, "stolon_cafe0002").await;
            let mut other = Server::standby_of(&primary, "stolon_cafe0003").await;
            for server in [&standby, &other] {
                server
                    .observed("it streams", |seen| seen.streams_from.is_some())
                    .await;
            }
            primary.stop(StopMode::Fast).await;
            let taken = [TimelineId(2), TimelineId(3)];
            let left = standby.pgdata().join("pg_wal/stolon-passed-over");
            std::fs::write(&left, "1").expect("a file");
            history::pass_over(&standby.pgdata(), &taken).expect("passed over");
            assert!(!left.exists());
            assert_eq!(history::read(&standby.pgdata(), TimelineId(2)).len(), 1);

            // The keeper dies before it promotes: what it wrote keeps nobody from starting.
            standby.stop(StopMode::Fast).await;
            history::forget_passed_over(&standby.pgdata()).expect("forgotten");
            assert_eq!(history::read(&standby.pgdata(), TimelineId(2)), []);
            standby.start().await;

            history::pass_over(&standby.pgdata(), &taken).expect("passed over");
            history::pass_over(&standby.pgdata(), &taken).expect("passed over again");
            let session = standby.session().await;
            session
                .create_slot("stolon_cafe0003")
                .await
                .expect("a slot");
            session.promote().await.expect("promotion");
            let seen = standby
                .observed("it is writable", |seen| !seen.in_recovery)
                .await;
            assert_eq!(seen.timeline, TimelineId(4));
            let switches = history::read(&standby.pgdata(), seen.timeline);
            let from: Vec<TimelineId> = switches.iter().map(|s| s.timeline_id).collect();
            assert_eq!(from, [TimelineId(1)]);

            // Another standby follows across the gap, and starts again behind it.
            other.follows = Some(standby.conninfo("stolon_cafe0003"));
            other.configure();
            let postmaster = other.postmaster.as_ref().expect("a postmaster");
            postmaster.reload().expect("reloaded");
            let follows = |seen: &Observation| seen.streams_from.is_some() && seen.timeline.0 == 4;
            other.observed("it follows", follows).await;
            other.stop(StopMode::Fast).await;
            for server in [&standby, &other] {
                history::forget_passed_over(&server.pgdata()).expect("looked through");
                assert_ne!(history::read(&server.pgdata(), TimelineId(3)), []);
            }
            other.start().await;
            other.observed("it follows again", follows).await;
        },
    );
}

/// Or it would count as forked when the second primary is lost too, and nobody could be elected.
#[test]
fn a_standby_knows_its_timeline_when_the_new_primary_is_lost() {
    story(
        "a_standby_knows_its_timeline_when_the_new_primary_is_lost",
        async {
            let first = Server::primary().await;
            let second = Server::standby_of(&first, "stolon_cafe0002").await;
            let mut third = Server::standby_of(&first, "stolon_cafe0003").await;
            for standby in [&second, &third] {
                standby
                    .observed("it streams", |seen| seen.streams_from.is_some())
                    .await;
            }
            first.stop(StopMode::Fast).await;
            let session = second.session().await;
            session
                .create_slot("stolon_cafe0003")
                .await
                .expect("a slot");
            session.promote().await.expect("promotion");
            third.follows = Some(second.conninfo("stolon_cafe0003"));
            third.configure();
            let postmaster = third.postmaster.as_ref().expect("a postmaster");
            postmaster.reload().expect("a reload");
            second
                .observed("it is writable", |seen| !seen.in_recovery)
                .await;
            second
                .value("CREATE TABLE public.t AS SELECT 42 AS a")
                .await;
            let from_second = Some(("127.0.0.1".into(), second.port.to_string()));
            // The receiver streams a moment before the recovery tells of the timeline.
            third
                .observed("it streams on the new timeline", |seen| {
                    seen.streams_from == from_second && seen.timeline.0 == 2
                })
                .await;

            second.stop(StopMode::Immediate).await;
            let alone = third
                .observed("the stream ended", |seen| seen.streams_from.is_none())
                .await;
            assert_eq!(alone.timeline.0, 2);
        },
    );
}

#[test]
fn a_killed_postmaster_leaves_nothing_behind() {
    story("a_killed_postmaster_leaves_nothing_behind", async {
        let mut server = Server::primary().await;
        let (busy, frozen) = (server.session().await, server.session().await);
        let rows = frozen.rows("pid", "SELECT pg_backend_pid()").await;
        let frozen_pid = rows.expect("a pid")[0][0].clone().expect("a pid");
        // One that does not notice the postmaster's end, and one that cannot.
        let work = tokio::spawn(async move {
            let sql = "SELECT count(*) FROM generate_series(1, 1000000000000)";
            busy.execute("work", sql).await
        });
        let count = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%generate_series(%'
                     AND state = 'active' AND pid <> pg_backend_pid()";
        server::eventually("the backend works", || async {
            (server.value(count).await == "1").then_some(())
        })
        .await;
        send(frozen_pid.parse().expect("a pid"), Signal::STOP);

        let postmaster = server.postmaster.as_ref().expect("a postmaster");
        let began = std::time::Instant::now();
        send(postmaster.pid(), Signal::KILL);
        let mut end = postmaster.end();
        end.wait_for(|gone| *gone).await.expect("its end is seen");
        assert!(
            began.elapsed().as_millis() < 500,
            "seen after {:?}",
            began.elapsed()
        );
        assert!(!data_dir::processes(&server.pgdata()).is_empty());

        kill_all(&server.pgdata()).await.expect("all gone");
        assert!(data_dir::processes(&server.pgdata()).is_empty());
        assert!(work.await.expect("the task").is_err());
        server.start().await;
    });
}

#[test]
fn a_running_postmaster_is_taken_over_and_its_end_seen() {
    story(
        "a_running_postmaster_is_taken_over_and_its_end_seen",
        async {
            let server = Server::primary().await;
            let adopted = Postmaster::adopt(&server.pgdata())
                .expect("a look")
                .expect("it runs");
            let started = server.postmaster.as_ref().expect("a postmaster");
            assert_eq!(adopted.pid(), started.pid());
            assert!(
                adopted
                    .stop(StopMode::Immediate, server::LIMIT)
                    .await
                    .expect("a stop")
            );
            assert!(
                Postmaster::adopt(&server.pgdata())
                    .expect("a look")
                    .is_none()
            );
        },
    );
}

#[test]
fn a_reload_puts_a_changed_configuration_in_force() {
    story("a_reload_puts_a_changed_configuration_in_force", async {
        let mut server = Server::primary_with(&[("work_mem", "1MB")]).await;
        let _ = server.parameters.insert("work_mem".into(), "2MB".into());
        let _ = server
            .parameters
            .insert("max_connections".into(), "50".into());
        server.configure();
        let postmaster = server.postmaster.as_ref().expect("a postmaster");
        postmaster.reload().expect("a reload");
        let seen = server
            .observed("the reload", |seen| !seen.pending_restart.is_empty())
            .await;
        assert_eq!(seen.pending_restart, ["max_connections"]);
        let session = server.session().await;
        let parameters = session.parameters_from_files().await.expect("parameters");
        assert_eq!(parameters["work_mem"], "2MB");
        assert!(!parameters.contains_key("unix_socket_directories"));
        let refused = session
            .execute("test", "ALTER SYSTEM SET work_mem = '3MB'")
            .await;
        assert!(refused.is_err(), "ALTER SYSTEM works");
        assert!(!config_files::is_standby(&server.pgdata()).expect("readable"));
    });
}

#[test]
fn passwords_are_not_in_the_log_and_work() {
    story("passwords_are_not_in_the_log_and_work", async {
        for method in ["md5", "scram-sha-256"] {
            let server = Server::primary_with(&[
                ("log_statement", "all"),
                ("log_min_duration_statement", "0"),
                ("log_transaction_sample_rate", "1"),
                ("password_encryption", method),
            ])
            .await;
            let session = server.session().await;
            session
                .set_password(server::SUPERUSER, "first\\'secret")
                .await
                .expect("a password");
            let failed = session.set_password("nobody", "second-secret").await;
            assert!(failed.is_err(), "a role that is not there");
            let loud = session.execute("test", "SELECT 'and logs again'").await;
            loud.expect("the session goes on");
            server::eventually("the log has come", || async {
                server.said().contains("and logs again").then_some(())
            })
            .await;
            let said = server.said();
            for secret in ["PASSWORD", "secret", "md5", "SCRAM-SHA-256"] {
                assert!(!said.contains(secret), "{secret} is in the log:\n{said}");
            }
            let info = server.conninfo("stolon_cafe0002");
            session.create_slot("stolon_cafe0002").await.expect("slot");
            let copy = Server::new();
            copy.copy(&info).await.expect("the password opens");
        }
    });
}

#[test]
fn what_users_limit_does_not_limit_the_keeper() {
    story("what_users_limit_does_not_limit_the_keeper", async {
        // The role is made under all of it.
        let mut limits = vec![
            ("statement_timeout", "9s"),
            ("lock_timeout", "9s"),
            ("idle_in_transaction_session_timeout", "9s"),
            ("default_transaction_read_only", "on"),
            ("search_path", "public, pg_catalog"),
        ];
        if Installation::find(None)
            .expect("PostgreSQL")
            .version()
            .major
            >= 14
        {
            limits.push(("idle_session_timeout", "9s"));
        }
        let server = Server::primary_with(&limits).await;
        let limits =
            "SELECT count(*) FROM pg_settings WHERE name ~ '_timeout$' AND setting = '9000'";
        assert_eq!(server.value(limits).await, "0");
        let path = "SELECT current_setting('search_path')";
        assert_eq!(server.value(path).await, "pg_catalog");
    });
}

#[test]
fn output_in_any_encoding_does_not_end_the_log() {
    story("output_in_any_encoding_does_not_end_the_log", async {
        let server = Server::primary().await;
        let odd = r"COPY (SELECT 1) TO PROGRAM 'cat >/dev/null; printf ''caf\351\n'' >&2'";
        for _ in 0..2 {
            server.value(odd).await;
        }
        server::eventually("both are in the log", || async {
            let said = server.said();
            (said.matches("caf\u{fffd}").count() == 2).then_some(())
        })
        .await;
    });
}

#[test]
fn parameters_that_postgresql_does_not_take_are_named() {
    story(
        "parameters_that_postgresql_does_not_take_are_named",
        async {
            let server = Server::primary().await;
            let check = async |parameters: &[(&str, &str)]| {
                let configuration = config_files::Configuration {
                    parameters: parameters
                        .iter()
                        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                        .collect(),
                    include_base: true,
                    ..config_files::Configuration::default()
                };
                let (installation, pgdata) = (&server.installation, server.pgdata());
                let refused = check::refused_parameters(installation, &pgdata, &configuration);
                refused.await.expect("an answer")
            };
            let good = [("work_mem", "8MB"), ("any.name", "it's \\ a value")];
            assert!(check(&good).await.is_empty());
            let unknown = check(&[("no_such_parameter", "1"), ("work_mem", "lots")]).await;
            assert_eq!(unknown.keys().collect::<Vec<_>>(), ["no_such_parameter"]);
            let wrong = check(&[
                ("work_mem", "lots"),
                ("max_connections", "99999999"),
                ("log_line_prefix", "%m "),
            ])
            .await;
            let names: Vec<_> = wrong.keys().map(String::as_str).collect();
            assert_eq!(names, ["max_connections", "work_mem"]);
            assert!(wrong["work_mem"].contains("\"lots\""), "{wrong:?}");
            let odd = check(&[("not a name", "1"), ("work_mem", "8MB")]).await;
            assert_eq!(odd.keys().collect::<Vec<_>>(), ["not a name"]);
            let left = std::fs::read_dir(server.pgdata())
                .expect("readable")
                .flatten();
            let names = left.map(|entry| entry.file_name().to_string_lossy().into_owned());
            assert!(!names.into_iter().any(|name| name.contains("check")));
        },
    );
}

/// B8: a source that is frozen in the middle of a copy: the copy is ended, leaves no program behind,
/// and can be made again.
#[test]
fn a_copy_that_stands_still_is_ended() {
    story("a_copy_that_stands_still_is_ended", async {
        let primary = Server::primary().await;
        let session = primary.session().await;
        session.create_slot("stolon_cafe0002").await.expect("slot");
        let info = primary.conninfo("stolon_cafe0002");
        let pid = data_dir::postmaster_pid(&primary.pgdata()).expect("a postmaster");
        send(pid, Signal::STOP);
        let copy = Server::new();
        let patience = std::time::Duration::from_secs(1);
        let (target, slot) = (copy.pgdata(), "stolon_cafe0002");
        let stuck = basebackup::run(&copy.installation, &target, &info, slot, patience, |_| {});
        let stuck = stuck.await.expect_err("nobody answers").to_string();
        assert!(stuck.contains("progress of pg_basebackup"), "{stuck}");
        send(pid, Signal::CONT);
        copy.copy(&info).await.expect("a copy");
    });
}

/// Connections are secured as libpq would, and no less.
#[test]
fn sessions_are_as_secure_as_they_must_be() {
    story("sessions_are_as_secure_as_they_must_be", async {
        let mut server = Server::primary().await;
        let folder = server.folder.path().to_owned();
        let ours = secured::Authority::new(&folder, "ours");
        let theirs = secured::Authority::new(&folder, "theirs");
        ours.sign(&server.pgdata());
        let _ = server.parameters.insert("ssl".into(), "on".into());
        let local = server.target();
        let target = |mode, root: Option<&std::path::Path>, host: &str| Target {
            host: host.to_owned(),
            tls: Tls {
                mode,
                root_certificate: root.map(Into::into),
                ..Tls::default()
            },
            ..local.clone()
        };
        let rule = |kind: &str| format!("{kind} all {} 127.0.0.1/32 trust", server::SUPERUSER);
        let (ours_file, theirs_file) = (Some(ours.file.as_path()), Some(theirs.file.as_path()));
        let secure = Ok("true".to_owned());
        let plain = Ok("false".to_owned());
        let refused = |part: &str| Err(part.to_owned());

        server.lets_in(&rule("hostssl")).await;
        for (mode, root, host, expected) in [
            (
                SslMode::Disable,
                None,
                "127.0.0.1",
                refused("no pg_hba.conf entry"),
            ),
            (SslMode::Allow, None, "127.0.0.1", secure.clone()),
            (SslMode::Prefer, None, "127.0.0.1", secure.clone()),
            (SslMode::Require, None, "127.0.0.1", secure.clone()),
            (
                SslMode::Require,
                theirs_file,
                "127.0.0.1",
                refused("UnknownIssuer"),
            ),
            (SslMode::VerifyCa, ours_file, "localhost", secure.clone()),
            (
                SslMode::VerifyCa,
                theirs_file,
                "localhost",
                refused("UnknownIssuer"),
            ),
            (SslMode::VerifyFull, ours_file, "127.0.0.1", secure.clone()),
            (
                SslMode::VerifyFull,
                ours_file,
                "localhost",
                refused("not valid for"),
            ),
        ] {
            secured::check(&target(mode, root, host), &expected).await;
        }
        server.lets_in(&rule("hostnossl")).await;
        secured::check(&target(SslMode::Prefer, None, "127.0.0.1"), &plain).await;
        let expected = refused("no pg_hba.conf entry");
        secured::check(&target(SslMode::Require, None, "127.0.0.1"), &expected).await;

        // A server that is its own authority.
        ours.serve(&server.pgdata());
        server.lets_in(&rule("hostssl")).await;
        secured::check(
            &target(SslMode::VerifyFull, ours_file, "127.0.0.1"),
            &secure,
        )
        .await;
    });
}
