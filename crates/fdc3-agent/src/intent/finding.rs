//! Who handles an intent: records and running instances, here and elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use mesh_model::{Json, Text};
use proto_dacp::{Fault, Object, array};

use super::{Candidate, Purpose, Search};
use crate::bridge::is_foreign;
use crate::{Agent, Asker};

impl Agent {
    pub(super) fn candidates(
        &self,
        intent: &str,
        kind: Option<&str>,
        result: Option<&str>,
    ) -> Vec<Candidate> {
        let with_result = |members: Object, result: Option<&Text>| {
            members.some_text("resultType", result.map(|result| &**result)).end()
        };
        let mut found = Vec::new();
        let mut declared: BTreeMap<&Text, &fdc3_directory::ListensFor> = BTreeMap::new();
        for (record, listens) in self.directory.declares(Some(intent), kind, result) {
            declared.insert(&record.app_id, listens);
            found.push(Candidate {
                app_id: record.app_id.clone(),
                instance: None,
                node: None,
                about: with_result(Self::metadata(record, None, None), listens.result_type.as_ref()),
                display_name: listens.display_name.clone(),
            });
        }
        let mentions: BTreeSet<&Text> =
            self.directory.declares(Some(intent), None, None).map(|(record, _)| &record.app_id).collect();
        for (instance, app) in self.connected_apps() {
            let listens = app.intents.values().any(|own| *own.intent == *intent && own.takes(kind));
            let listens_for = declared.get(&app.app_id);
            if listens_for.is_none() && (!listens || mentions.contains(&app.app_id) || result.is_some()) {
                continue;
            }
            let members = self.instance_metadata(&app.app_id, instance, None);
            found.push(Candidate {
                app_id: app.app_id.clone(),
                instance: Some(instance.clone()),
                node: None,
                about: with_result(members, listens_for.and_then(|listens| listens.result_type.as_ref())),
                display_name: listens_for.and_then(|listens| listens.display_name.clone()),
            });
        }
        self.candidates_elsewhere(intent, kind, result, &mut found);
        found
    }

    fn candidates_elsewhere(
        &self,
        intent: &str,
        kind: Option<&str>,
        result: Option<&str>,
        found: &mut Vec<Candidate>,
    ) {
        let mut declared: BTreeMap<&Text, &fdc3_directory::ListensFor> = BTreeMap::new();
        for (node, record) in self.peers.records() {
            let fits = |listens: &&fdc3_directory::ListensFor| {
                *listens.intent == *intent && listens.is_for(kind, result)
            };
            let Some(listens) = record.intents.iter().find(fits) else { continue };
            declared.insert(&record.app_id, listens);
            // An app that this node has as well is started here.
            if self.record(&record.app_id).is_some_and(|own| own.app_id == record.app_id) {
                continue;
            }
            found.push(Candidate {
                app_id: record.app_id.clone(),
                instance: None,
                node: Some(node.clone()),
                about: Self::metadata(record, None, Some(node))
                    .some_text("resultType", listens.result_type.as_deref())
                    .end(),
                display_name: listens.display_name.clone(),
            });
        }
        for (record, listens) in self.directory.declares(Some(intent), kind, result) {
            declared.entry(&record.app_id).or_insert(listens);
        }
        for server in self.peers.servers.values() {
            let method = server.intents.values().find(|method| {
                *method.intent == *intent
                    && kind
                        .zip(method.contexts.as_ref())
                        .is_none_or(|(kind, types)| types.iter().any(|other| **other == *kind))
            });
            let listens = declared.get(&server.app_id).filter(|_| server.fdc3);
            if listens.is_none() && (method.is_none() || result.is_some()) {
                continue;
            }
            let about = self.instance_metadata(&server.app_id, &server.instance, server.node.as_deref());
            let name = method.and_then(|method| method.display_name.clone());
            found.push(Candidate {
                app_id: server.app_id.clone(),
                instance: Some(server.instance.clone()),
                node: server.node.clone(),
                about: about
                    .some_text("resultType", listens.and_then(|listens| listens.result_type.as_deref()))
                    .end(),
                display_name: listens.and_then(|listens| listens.display_name.clone()).or(name),
            });
        }
    }

    /// Returns the intents that are handled for a type of context.
    fn intents_for(&self, kind: &str, result: Option<&str>) -> Vec<Text> {
        let mut found: Vec<Text> = Vec::new();
        let own =
            self.directory.declares(None, Some(kind), result).map(|(_, listens)| listens.intent.clone());
        let others = self.peers.records().flat_map(|(_, record)| &record.intents);
        let others =
            others.filter(|listens| listens.is_for(Some(kind), result)).map(|listens| listens.intent.clone());
        // A method that names no types handles anything, and so says nothing about this one.
        let methods = self
            .peers
            .servers
            .values()
            .filter(|_| result.is_none())
            .flat_map(|server| server.intents.values());
        let methods = methods.filter(|method| {
            method.contexts.as_ref().is_some_and(|types| types.iter().any(|other| **other == *kind))
        });
        for intent in own.chain(others).chain(methods.map(|method| method.intent.clone())) {
            if !found.contains(&intent) {
                found.push(intent);
            }
        }
        found
    }

    pub(super) fn app_intent(intent: &str, candidates: &[Candidate]) -> Json {
        let display = candidates.iter().find_map(|candidate| candidate.display_name.clone());
        let about = Object::new()
            .text("name", intent)
            .text("displayName", display.as_deref().unwrap_or(intent))
            .end();
        let apps = array(candidates.iter().map(|candidate| &candidate.about));
        Object::new().json("intent", &about).json("apps", &apps).end()
    }

    pub(crate) fn find_intent(
        &mut self,
        asker: &Asker,
        intent: &str,
        kind: Option<&str>,
        result: Option<&str>,
    ) -> Result<(), Fault> {
        let found = vec![(intent.into(), self.candidates(intent, kind, result))];
        let search =
            Search { asker: asker.clone(), intent: Some(intent.into()), found, purpose: Purpose::Find };
        self.search(search, kind, result)
    }

    pub(crate) fn find_intents(
        &mut self,
        asker: &Asker,
        kind: &str,
        result: Option<&str>,
    ) -> Result<(), Fault> {
        let found = self.found_for(kind, result);
        let search = Search { asker: asker.clone(), intent: None, found, purpose: Purpose::Find };
        self.search(search, Some(kind), result)
    }

    pub(super) fn found_for(&self, kind: &str, result: Option<&str>) -> Vec<(Text, Vec<Candidate>)> {
        let intents = self.intents_for(kind, result).into_iter();
        intents.map(|intent| (intent.clone(), self.candidates(&intent, Some(kind), result))).collect()
    }

    /// Ends a search, or asks the agents on bridges first.
    pub(super) fn search(
        &mut self,
        search: Search,
        kind: Option<&str>,
        result: Option<&str>,
    ) -> Result<(), Fault> {
        match self.asks_bridges(&search.asker) {
            true => {
                self.search_bridges(search, kind, result);
                Ok(())
            }
            false => self.found(search),
        }
    }

    /// All that can be found has been.
    pub(crate) fn found(&mut self, search: Search) -> Result<(), Fault> {
        let Search { asker, intent, mut found, purpose } = search;
        if let Purpose::Raise(raise, app) = purpose {
            return self.raise_to_found(&asker, intent.is_some(), raise, app, found);
        }
        // Agents on the bridge are told that there is nothing; apps, that this is an error.
        let is_foreign = is_foreign(&asker.instance);
        found.retain(|(_, candidates)| !candidates.is_empty() || (is_foreign && intent.is_some()));
        if found.is_empty() && !is_foreign {
            return Err(Fault::NoAppsFound);
        }
        let found: Vec<Json> =
            found.iter().map(|(intent, candidates)| Self::app_intent(intent, candidates)).collect();
        let payload = match (&intent, &found[..]) {
            (Some(_), [found]) => Object::new().json("appIntent", found).end(),
            _ => Object::new().json("appIntents", &array(&found)).end(),
        };
        self.answer(&asker, Ok(payload));
        Ok(())
    }
}
