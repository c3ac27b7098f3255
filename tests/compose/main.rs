//! `docker compose up` with the repository's own files: a fleet of containers that is scaled, killed and rolled under load.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking; the lint knows only functions marked as tests")]

mod docker;
#[path = "../it/harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the other tests of the whole program use more of it")]
mod harness;
mod installation;
mod load;
mod outside;

use installation::Installation;
use load::MESSAGES;

/// The story of an installation, whose parts would each need all that comes before: making one takes longer than the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_from_the_compose_file_loses_and_doubles_nothing_through_kills_and_an_upgrade() {
    let installation = Installation::up().await;
    outside::telegram_knows_the_bot(&installation).await;
    outside::only_the_webhook_is_public(&installation).await;
    outside::administrators_have_a_site_of_their_own(&installation).await;
    outside::containers_are_confined_and_hold_no_secret_in_sight(&installation);

    let agent = installation.agent().await;
    installation.deploy(1, 3).await;
    load::everybody_meets(&installation, agent).await;
    load::a_replica_and_the_database_are_killed(&installation, 1..=MESSAGES).await;
    load::a_new_version_takes_over(&installation, MESSAGES + 1..=2 * MESSAGES).await;
    outside::containers_are_confined_and_hold_no_secret_in_sight(&installation);
}
