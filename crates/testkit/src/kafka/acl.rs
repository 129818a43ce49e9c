//! Permissions of a node, given and taken in Kafka's own protocol: no client library of ours has
//! these requests.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use super::Kafka;

const CREATE: i16 = 30;
const DELETE: i16 = 31;

/// Thing that a permission is for.
#[derive(Clone, Copy, Debug)]
pub enum Thing<'a> {
    /// A topic.
    Topic(&'a str),
    /// A consumer group.
    Group(&'a str),
    /// A transactional id.
    TransactionalId(&'a str),
}

/// Operation that a permission allows. Reading and writing a topic let its description be read,
/// too.
#[derive(Clone, Copy, Debug)]
pub enum Operation {
    /// Records of a topic; commits and membership of a group.
    Read = 3,
    /// Records of a topic; transactions.
    Write = 4,
    /// Seeing that it is there.
    Describe = 8,
}

impl Kafka {
    /// Lets the user `guest` of a node with [`start_secure`](Kafka::start_secure) do this, from now
    /// on.
    ///
    /// # Panics
    /// The node refuses.
    pub fn allow(&self, operation: Operation, thing: Thing<'_>) {
        self.permit(CREATE, operation, thing);
    }

    /// Takes that back.
    ///
    /// # Panics
    /// The node refuses.
    pub fn withdraw(&self, operation: Operation, thing: Thing<'_>) {
        self.permit(DELETE, operation, thing);
    }

    /// Both requests have one body in their first versions without tagged fields: an array of one
    /// entry.
    fn permit(&self, request: i16, operation: Operation, thing: Thing<'_>) {
        const ALLOW: u8 = 3;
        const LITERAL: u8 = 3;
        let (kind, name) = match thing {
            Thing::Topic(name) => (2, name),
            Thing::Group(name) => (3, name),
            Thing::TransactionalId(name) => (5, name),
        };
        let mut body = Vec::new();
        body.extend(request.to_be_bytes());
        body.extend(1i16.to_be_bytes());
        body.extend(7i32.to_be_bytes());
        text(&mut body, "testkit");
        body.extend(1i32.to_be_bytes());
        body.push(kind);
        text(&mut body, name);
        body.push(LITERAL);
        text(&mut body, "User:guest");
        text(&mut body, "*");
        body.extend([operation as u8, ALLOW]);
        let answer = self.exchange(&body);
        // Correlation, throttle time, length of the array, then the error of the first entry.
        let error = answer.get(12..14).map(|bytes| i16::from_be_bytes([bytes[0], bytes[1]]));
        assert_eq!(error, Some(0), "the node refuses to change the permission {operation:?} for {thing:?}");
    }

    fn exchange(&self, body: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address()).expect("the node listens");
        let length = i32::try_from(body.len()).expect("a short request");
        stream.write_all(&[&length.to_be_bytes(), body].concat()).expect("it is sent");
        let mut length = [0; 4];
        stream.read_exact(&mut length).expect("an answer");
        let mut answer = vec![0; usize::try_from(i32::from_be_bytes(length)).expect("a length")];
        stream.read_exact(&mut answer).expect("the whole answer");
        answer
    }
}

fn text(body: &mut Vec<u8>, text: &str) {
    body.extend(i16::try_from(text.len()).expect("a short text").to_be_bytes());
    body.extend(text.as_bytes());
}
