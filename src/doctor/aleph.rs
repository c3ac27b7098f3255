//! Aleph Cloud: account, credits, every server that is asked, and how far our clock is from theirs.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;

use super::machines::host;
use super::{Finding, Line};
use crate::app::App;
use crate::cloud::aleph::{Aleph, Funds, dollars};
use crate::cloud::reconcile::last_report;
use crate::config::Config;
use crate::ssh::Key;

const ANSWER_WITHIN: Duration = Duration::from_secs(12);
/// Nodes refuse what was signed two minutes off; so far from it, things go wrong soon.
const SKEW: TimeDelta = TimeDelta::seconds(30);

/// All that CLOUD=aleph needs.
pub async fn check(app: &App, config: &Config, key: Option<&Key>) -> Vec<Line> {
    let public = config.ssh_public_key.clone().or_else(|| key.map(Key::public)).unwrap_or_default();
    let aleph = match Aleph::new(config, public) {
        Ok(aleph) => aleph,
        Err(error) => return vec![Line::new("aleph account", Err(format!("{error:#}.")))],
    };
    let mut lines =
        vec![Line::new("aleph account", Ok(aleph.address())), Line::new("credits", credits(app, &aleph).await)];
    let asked = config.aleph_api_urls.iter().map(|url| core_node(app, &aleph, url));
    lines.extend(join_all(asked).await);
    lines.push(Line::new("compute nodes", nodes(config, &aleph).await));
    lines.push(Line::new("gateway", gateway(config, &aleph).await));
    lines.push(Line::new("reconcile", reconcile(app).await));
    lines
}

async fn credits(app: &App, aleph: &Aleph) -> Finding {
    let funds = aleph.funds().await.map_err(|error| format!("unknown, as {error}."))?;
    // silent-ok: the database has a line of its own.
    let machines: i64 = sqlx::query_scalar("select count(*) from vms where cloud = 'aleph' and ended_at is null")
        .fetch_one(&app.db)
        .await
        .unwrap_or(0);
    last(&funds, machines)
}

/// How long the account's credits last.
fn last(funds: &Funds, machines: i64) -> Finding {
    let Funds { credits, hourly, address } = funds;
    let (credits, hourly) = (*credits, *hourly);
    let has = format!("{credits} credits (${:.2}), a machine costs {hourly} an hour", dollars(credits));
    if let Err(shortage) = funds.check(machines + 1) {
        return Err(format!(
            "{has}. To make one more machine, {} are needed: those of a day for all {}. Send credits to {address}.",
            shortage.need, shortage.machines
        ));
    }
    let spent = hourly.saturating_mul(machines.try_into().unwrap_or(0));
    Ok(match credits.checked_div(spent) {
        Some(hours) => format!("{has}; they last {} days for the {machines} machines there are", hours / 24),
        None => format!("{has}; there are no machines"),
    })
}

/// A core channel node, asked for what every one of them must know, and its clock.
async fn core_node(app: &App, aleph: &Aleph, url: &str) -> Line {
    let ask = async {
        let asked = format!("{url}/api/v0/addresses/{}/balance", aleph.address());
        let began = own_clock();
        let answer = app.agents_http.to_operators().get(asked).timeout(ANSWER_WITHIN).send().await;
        let answer = answer.map_err(|error| {
            format!(
                "it does not answer ({}). Take it out of ALEPH_API_URL if that lasts: nothing is destroyed unless all \
                     of them answer.",
                error.without_url()
            )
        })?;
        let between = began + (own_clock() - began) / 2;
        let theirs = answer.headers().get("date").and_then(|date| date.to_str().ok());
        let skew = clock(between, theirs)?;
        // 404: an account that never had a balance.
        if !answer.status().is_success() && answer.status().as_u16() != 404 {
            return Err(format!("it answered {}. Is ALEPH_API_URL right?", answer.status()));
        }
        Ok(skew)
    };
    Line::new(format!("core channel node {}", host(url)), ask.await)
}

#[expect(clippy::disallowed_methods, reason = "this host's own clock is what is looked at")]
fn own_clock() -> DateTime<Utc> {
    Utc::now()
}

/// How far our clock is from a server's `Date`, which has whole seconds.
fn clock(ours: DateTime<Utc>, theirs: Option<&str>) -> Finding {
    // silent-ok: a server without a clock says nothing of ours.
    let Some(theirs) = theirs.and_then(|date| DateTime::parse_from_rfc2822(date).ok()) else {
        return Ok("answers".into());
    };
    let skew = ours - theirs.with_timezone(&Utc);
    if skew.abs() > SKEW {
        return Err(format!(
            "this host's clock is {} s {} of it, and compute nodes refuse what is two minutes off. Let it follow NTP.",
            skew.num_seconds().abs(),
            if skew > TimeDelta::zero() { "ahead" } else { "behind" }
        ));
    }
    Ok("answers, and its clock agrees with ours".into())
}

async fn nodes(config: &Config, aleph: &Aleph) -> Finding {
    match aleph.candidates(&HashSet::new()).await {
        Ok(fit) => Ok(format!(
            "{} are fit for {} processors, {} MiB of memory and {} GiB of disk; the first is {}",
            fit.len(),
            config.vm_vcpus,
            config.vm_memory,
            config.vm_disk,
            fit.first().map_or_else(String::new, |crn| host(&crn.url)),
        )),
        Err(error) => {
            Err(format!("{error}. Is {} the list of compute nodes (ALEPH_CRN_LIST_URL)?", config.aleph_crn_list_url))
        }
    }
}

async fn gateway(config: &Config, aleph: &Aleph) -> Finding {
    // An instance that cannot exist: the question is whether there is an answer.
    aleph.routed(&"0".repeat(64)).await.map_err(|error| format!("{error}. Is ALEPH_GATEWAY_URL right?"))?;
    Ok(format!("answers; agents are at https://….{}", config.aleph_gateway_domain))
}

async fn reconcile(app: &App) -> Finding {
    let unknown = |_| "unknown, as the database does not answer.".to_owned();
    let only: bool =
        sqlx::query_scalar("select report_only from installation").fetch_one(&app.db).await.map_err(unknown)?;
    if only {
        return Err(
            "this installation only reports. Look at `baal reconcile --dry-run`, then run `baal reconcile --confirm`."
                .into(),
        );
    }
    let mut conn = app.db.acquire().await.map_err(unknown)?;
    Ok(match last_report(&mut conn).await.map_err(unknown)? {
        None => "no comparison yet".into(),
        Some((age, report)) => {
            let count = |what: &str| report[what].as_array().map_or(0, Vec::len);
            format!(
                "{} min ago: {} instances as the database says, {} unknown, {} missing, {} of others",
                age.as_secs() / 60,
                report["matched"],
                count("strays"),
                count("missing"),
                report["other_count"]
            )
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credits_are_told_as_the_time_they_last() {
        let funds = Funds { address: "0xabc".into(), credits: 14_250 * 24 * 10, hourly: 14_250 };
        let fine = last(&funds, 2).expect("enough");
        assert!(fine.contains("last 5 days for the 2 machines") && fine.contains("$3.42"), "{fine}");
        assert!(last(&funds, 0).expect("enough").contains("no machines"));
        let short = last(&funds, 10).expect_err("one more is too many");
        assert!(short.contains("all 11") && short.contains("0xabc"), "{short}");
    }

    #[test]
    fn a_clock_half_a_minute_off_is_told_before_nodes_refuse_us() {
        let at = |seconds| DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds);
        let date = Some("Thu, 01 Jan 1970 00:16:40 GMT");
        assert!(clock(at(1_000), date).is_ok() && clock(at(1_030), date).is_ok() && clock(at(970), date).is_ok());
        assert!(clock(at(1_031), date).expect_err("off").contains("31 s ahead"));
        assert!(clock(at(800), date).expect_err("off").contains("200 s behind"));
        assert!(clock(at(0), None).is_ok() && clock(at(0), Some("soon")).is_ok());
    }
}
