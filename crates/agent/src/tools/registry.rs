//! All tools, and which of them a turn is offered.

use super::{Services, Tool, Who};
use super::{
    bash, edit_file, list_dir, read_file, recall, remember, send_file, spawn, web_fetch, web_search, write_file,
};
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// All tools, in the order in which models are told of them.
const TOOLS: &[&Tool] = &[
    &bash::TOOL,
    &read_file::TOOL,
    &write_file::TOOL,
    &edit_file::TOOL,
    &list_dir::TOOL,
    &web_fetch::TOOL,
    &web_search::TOOL,
    &remember::TOOL,
    &recall::TOOL,
    &send_file::TOOL,
    &spawn::TOOL,
];

/// The tools of this agent.
pub struct Toolbox {
    services: Arc<Services>,
    /// By which of the tools are in it: the same tools are described in the same bytes, which lets services reuse their work.
    offers: Mutex<HashMap<Vec<bool>, Arc<Offer>>>,
}

/// The tools of one turn.
pub struct Offer {
    tools: Vec<&'static Tool>,
    described: Option<Box<RawValue>>,
}

impl Toolbox {
    /// All tools, with what they work with.
    pub fn new(services: Arc<Services>) -> Self {
        Self { services, offers: Mutex::default() }
    }

    /// What tools work with.
    pub fn services(&self) -> Arc<Services> {
        self.services.clone()
    }

    /// What a turn may use.
    pub async fn offer(&self, who: &Who) -> Arc<Offer> {
        let may_use = |tool: &Tool| who.may_use(tool.name, tool.access);
        if may_use(&bash::TOOL) {
            self.services.walls.settled().await;
        }
        let chosen: Vec<bool> = TOOLS.iter().map(|tool| may_use(tool) && (tool.available)(&self.services)).collect();
        let mut offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(offer) = offers.get(&chosen) {
            return offer.clone();
        }
        let tools: Vec<&'static Tool> =
            TOOLS.iter().zip(&chosen).filter(|(_, chosen)| **chosen).map(|(tool, _)| *tool).collect();
        let offer = Arc::new(Offer::of(tools));
        offers.insert(chosen, offer.clone());
        offer
    }
}

/// The list of tools in OpenAI's form; `None` for none, since services refuse an empty one.
fn describe(tools: &[&Tool]) -> Option<Box<RawValue>> {
    if tools.is_empty() {
        return None;
    }
    let describe = |tool: &&Tool| {
        let function = json!({"name": tool.name, "description": tool.description, "parameters": (tool.parameters)()});
        json!({"type": "function", "function": function})
    };
    let described: Vec<_> = tools.iter().map(describe).collect();
    // silent-ok: JSON made of JSON cannot fail
    to_raw_value(&described).ok()
}

impl Offer {
    /// These tools.
    pub fn of(tools: Vec<&'static Tool>) -> Self {
        let described = describe(&tools);
        Self { tools, described }
    }

    /// A tool by its name.
    pub fn find(&self, name: &str) -> Option<&'static Tool> {
        self.tools.iter().copied().find(|tool| tool.name == name)
    }

    /// As models are told of them.
    pub fn described(&self) -> Option<&RawValue> {
        self.described.as_deref()
    }

    /// Their names, for who looks for one that isn't there.
    pub fn names(&self) -> String {
        self.tools.iter().map(|tool| tool.name).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn services_can_be_told_of_every_tool() {
        let names: HashSet<&str> = TOOLS.iter().map(|tool| tool.name).collect();
        assert_eq!(names.len(), TOOLS.len(), "two tools of one name");
        let described = describe(TOOLS).expect("tools");
        let described: Vec<serde_json::Value> = serde_json::from_str(described.get()).expect("JSON");
        for tool in described {
            let function = &tool["function"];
            assert_eq!((&tool["type"], &function["parameters"]["type"]), (&json!("function"), &json!("object")));
            let required = function["parameters"]["required"].as_array().cloned().unwrap_or_default();
            let known =
                |name: &serde_json::Value| !function["parameters"]["properties"][name.as_str().unwrap_or("")].is_null();
            assert!(required.iter().all(known), "{function}");
            assert!(function["description"].as_str().is_some_and(|text| !text.contains("  ")), "{function}");
        }
        assert!(describe(&[]).is_none());
    }
}
