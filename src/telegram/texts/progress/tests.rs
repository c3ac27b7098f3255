//! What cards say, and what they offer.

use super::*;
use crate::agents::model::tests::agent;

fn text(scene: Scene) -> String {
    progress(&agent("Ada"), &scene, None).0.text
}

fn presses(scene: Scene) -> String {
    serde_json::to_string(&progress(&agent("Ada"), &scene, None).1).expect("JSON")
}

fn working(cloud: CloudKind, step: Step, progress: Progress) -> String {
    text(Scene::Working { kind: Kind::Provision, cloud, step, progress })
}

#[test]
fn steps_are_shown_as_done_current_and_to_come() {
    assert_eq!(
        working(CloudKind::Local, Step::Start, Progress::default()),
        "🤖 Ada is being set up…\n\n✅ Find a place for it\n✅ Install it\n⏳ Start it\n▫️ Wait until it answers\n▫️ Open it for you\
         \n\n▰▰▰▰▱▱▱▱▱▱ 0 s"
    );
    let trouble = Progress { trouble: Some("the disk is full".into()), ..Progress::default() };
    let shown = working(CloudKind::Local, Step::Start, trouble);
    assert!(shown.ends_with("That did not work yet: the disk is full. Trying again shortly."), "{shown}");
    assert!(shown.contains("⚠️ Start it"));
}

#[test]
fn other_machines_and_the_line_are_told() {
    let shown = working(CloudKind::Aleph, Step::Reach, Progress { tried: 1, ..Progress::default() });
    assert!(shown.contains("✅ Get a machine\n⏳ Wait for the machine\n▫️ Prepare the machine"), "{shown}");
    assert!(shown.ends_with("The first place did not work; trying another."), "{shown}");
    let shown = text(Scene::Waiting { kind: Kind::Provision, place: 3 });
    assert!(shown.contains("number 3 in line"), "{shown}");
}

#[test]
fn the_bar_shows_what_has_passed_of_what_is_expected() {
    let shown = |elapsed, left: Option<u64>| {
        clock(&Clock { elapsed: Duration::from_secs(elapsed), left: left.map(Duration::from_secs) }, 0.5)
    };
    assert_eq!(shown(0, Some(90)), "▱▱▱▱▱▱▱▱▱▱ 0 s, about 2 min to go");
    assert_eq!(shown(30, Some(30)), "▰▰▰▰▰▱▱▱▱▱ 30 s, about 30 s to go");
    assert_eq!(shown(85, Some(21)), "▰▰▰▰▰▰▰▰▱▱ 1 min 25 s, about 30 s to go");
    assert_eq!(shown(600, Some(0)), "▰▰▰▰▰▰▰▰▰▱ 10 min, nearly there");
    assert_eq!(shown(0, Some(0)), "▱▱▱▱▱▱▱▱▱▱ 0 s, nearly there");
    assert_eq!(shown(61, None), "▰▰▰▰▰▱▱▱▱▱ 1 min 1 s", "nothing is known but the step");
}

#[test]
fn a_repair_says_whether_memory_was_lost_and_a_failure_where_it_failed() {
    assert!(text(Scene::Repaired { memory_lost: true }).contains("are lost"));
    assert!(text(Scene::Repaired { memory_lost: false }).contains("everything that it knew"));
    assert!(text(Scene::TakenOver).contains("everything that was said"));
    let restored = text(Scene::Restored { reason: "the new version did not become healthy".into() });
    assert!(restored.contains("runs again as it did before"), "{restored}");
}

#[test]
fn whoever_gives_up_says_what_is_left_and_what_can_be_done() {
    let given_up = |left| {
        let (reason, cause) = ("its machine does not let us in".to_owned(), Some(Cause::Ssh));
        let scene = Scene::GivenUp { kind: Kind::Redeploy, step: Step::Install, cause, reason, left };
        (text(scene.clone()), presses(scene))
    };
    let has = |(text, buttons): (String, String), words: &str, presses: &[&str]| {
        assert!(text.contains("could not be updated: its machine does not let us in.\n\n🔑 "), "{text}");
        assert!(text.contains("(It failed at: Install it.)"), "{text}");
        assert!(text.contains(words), "{text}");
        let all = ["repair:5", "anew:5", "retry:5", "delete:5"];
        let there: Vec<_> = all.into_iter().filter(|press| buttons.contains(press)).collect();
        assert_eq!(there, presses, "{words}");
    };
    has(given_up(Left::AsBefore), "left as it was before", &["repair:5", "delete:5"]);
    has(given_up(Left::Unknown), "as you wanted it, or not at all", &["repair:5", "delete:5"]);
    has(given_up(Left::Memory), "Its machine is kept, with what it remembers", &["repair:5", "anew:5", "delete:5"]);
    has(given_up(Left::Nothing), "its machine is gone, with what it remembered", &["retry:5", "delete:5"]);
}

#[test]
fn a_hostile_name_is_plain_text_in_bold() {
    let name = "<b>*_[x](tg://user?id=1) 👩\u{200d}🚀";
    for scene in [Scene::Undoing, Scene::Deleted, Scene::Ready { link: None, instead: None }] {
        let card = crate::jobs::card::card(&agent(name), &scene, None);
        let entity = &card.text.entities[0];
        let units: Vec<u16> = card.text.text.encode_utf16().skip(entity.offset).take(entity.length).collect();
        assert_eq!(String::from_utf16(&units).expect("whole characters"), name);
        let payload: serde_json::Value = serde_json::from_str(&card.edit(1, 2, 3).payload).expect("JSON");
        assert_eq!((payload.get("parse_mode"), &payload["message_id"]), (None, &0.into()));
    }
}

#[test]
fn whoever_is_ready_says_how_to_reach_it() {
    let link = || Some("https://t.me/baal_bot?start=agent_5".to_owned());
    let ready = text(Scene::Ready { link: link(), instead: None });
    assert!(ready.starts_with("✅ Ada is ready! Send it a message.\n\nShare it: https://t.me/baal_bot?start=agent_5"));
    let ready = text(Scene::Ready { link: None, instead: Some("*Bea*".into()) });
    assert!(ready.contains("You are still talking to *Bea*; press Chat") && !ready.contains("t.me"), "{ready}");
    let presses = presses(Scene::Ready { link: link(), instead: None });
    for press in ["chat:5", "soul:show:5", "s:open:5"] {
        assert!(presses.contains(press), "{presses}");
    }
}

#[test]
fn a_failure_says_what_happened_and_what_can_be_done() {
    let failed = |cause| Scene::Failed { step: Some(Step::Start), cause, reason: "the disk is full".into() };
    let shown = text(failed(Some(Cause::Health)));
    assert!(
        shown.starts_with("❌ Ada could not be set up: the disk is full.\n\n🩺 Its program was put in place"),
        "{shown}"
    );
    assert!(shown.contains("(It failed at: Start it.)\n\nEverything that was started"), "{shown}");
    let buttons = presses(failed(None));
    assert!(buttons.contains("retry:5") && buttons.contains("delete:5"), "{buttons}");
}

#[test]
fn every_kind_of_failure_has_its_own_words() {
    use Cause::{Allocation, Credits, Gateway, Health, Node, Service, Ssh};
    let all = [Credits, Node, Allocation, Ssh, Health, Gateway, Service].map(|cause| why(Some(cause), None));
    let different: std::collections::HashSet<_> = all.iter().collect();
    assert_eq!(different.len(), all.len());
}

#[test]
fn operators_are_told_more() {
    let scene = Scene::Failed { step: Some(Step::Reach), cause: Some(Cause::Ssh), reason: "it is silent".into() };
    let details = Details { job_id: uuid::Uuid::nil(), step: "reach".into(), tries: 3, node: Some("abc".into()) };
    let (shown, _) = progress(&agent("Ada"), &scene, Some(&details));
    let told = "For operators: job 00000000-0000-0000-0000-000000000000, step reach, 3 tries, node abc";
    assert!(shown.text.ends_with(told), "{}", shown.text);
    assert!(!text(scene).contains("For operators"));
}

#[test]
fn even_the_longest_card_fits_a_message() {
    let name = "👩".repeat(64);
    let clock = Clock { elapsed: Duration::from_secs(9_999), left: Some(Duration::from_secs(9_999)) };
    let progress = Progress { trouble: Some("x".repeat(200)), clock, tried: 4, restoring: true };
    let scene = Scene::Working { kind: Kind::Repair, cloud: CloudKind::Aleph, step: Step::Finish, progress };
    assert!(super::progress(&agent(&name), &scene, None).0.text.encode_utf16().count() < 4096);
}
