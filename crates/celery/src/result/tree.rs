//! The tree of what a task sent, and saved groups: nodes written as
//! `[[id, parent or null], null or [children]]`.

use super::document;
use crate::value::{Map, Value, ValueError};

/// A task or (with children) a group, and what came before it.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct ResultTree {
    /// Its id.
    pub id: String,
    /// The result that it came after, in a chain.
    pub parent: Option<Box<ResultTree>>,
    /// The members, if it is a group.
    pub children: Option<Vec<ResultTree>>,
}

impl ResultTree {
    /// A task with nothing before it.
    pub fn task(id: impl Into<String>) -> Self {
        Self { id: id.into(), ..Self::default() }
    }

    /// A group of tasks.
    pub fn group(id: impl Into<String>, children: Vec<ResultTree>) -> Self {
        Self { id: id.into(), parent: None, children: Some(children) }
    }

    /// As it is stored.
    pub fn to_value(&self) -> Value {
        let parent = self.parent.as_ref().map(|parent| parent.to_value());
        let children = self.children.as_ref().map(|children| children.iter().map(ResultTree::to_value).collect::<Vec<_>>());
        Value::List(vec![Value::List(vec![self.id.as_str().into(), parent.into()]), children.into()])
    }

    /// Reads a stored one.
    ///
    /// # Errors
    /// It is no such tree.
    pub fn from_value(value: &Value) -> Result<Self, ValueError> {
        let Some([node, children]) = value.as_list() else {
            return Err(ValueError::new("expected a node of results: [[id, parent], children]"));
        };
        let (id, parent) = match node {
            Value::List(node) => match node.as_slice() {
                [id] | [id, Value::Null] => (id, None),
                [id, parent] => (id, Some(Box::new(Self::from_value(parent).map_err(|error| error.in_item(1).in_item(0))?))),
                _ => return Err(ValueError::new("expected the id of a result and its parent")),
            },
            id => (id, None),
        };
        let id = id.as_str().ok_or_else(|| ValueError::expected("the id of a result", id))?.to_owned();
        let children = match children {
            Value::Null => None,
            Value::List(children) => {
                let each = children.iter().enumerate();
                Some(
                    each.map(|(index, child)| Self::from_value(child).map_err(|error| error.in_item(index).in_item(1)))
                        .collect::<Result<_, _>>()?,
                )
            }
            other => return Err(ValueError::expected("children (a list) or null", other).in_item(1)),
        };
        Ok(Self { id, parent, children })
    }
}

/// A saved group.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct GroupResult {
    /// The group with its members.
    pub tree: ResultTree,
}

impl GroupResult {
    /// Writes its document.
    pub fn encode(&self) -> Vec<u8> {
        Value::Map(Map::from_iter([("result", self.tree.to_value())])).to_json()
    }

    /// Reads its document, compressed or not.
    ///
    /// # Errors
    /// It is no saved group, or longer than `limit` bytes.
    pub fn decode(document: &[u8], limit: usize) -> Result<Self, ValueError> {
        let document = document::parse(document, limit)?;
        let tree =
            document.get("result").ok_or_else(|| ValueError::new("expected the document of a saved group (an object with a result)"))?;
        Ok(Self { tree: ResultTree::from_value(tree).map_err(|error| error.in_member("result"))? })
    }
}
