//! Makes the calls of `tests/clients/raw_stubs.py` with the stubs that tonic generates.
use std::collections::HashMap;
use std::error::Error;
use std::{env, fs};

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

#[allow(dead_code)]
mod stubs {
    tonic::include_proto!("all");
}
use stubs::cache_sidecar::v1::*;

static DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors"));

struct Call {
    id: u64,
    method: MethodDescriptor,
    request: DynamicMessage,
    channel: Channel,
    authorization: Option<MetadataValue<Ascii>>,
}

impl Call {
    /// Returns the request in the type of the stubs.
    fn request<M: Message + Default>(&self) -> Request<M> {
        let mut request = Request::new(self.request.transcode_to().expect("the stubs are of the same protos"));
        if let Some(value) = &self.authorization {
            request.metadata_mut().insert("authorization", value.clone());
        }
        request
    }

    fn reply(&self, message: &impl Message) {
        println!("{}", json!({"id": self.id, "reply": to_json(self.method.output(), message)}));
    }

    fn error(&self, status: &Status) {
        let decoded = (!status.details().is_empty()).then(|| {
            let decoded = stubs::google::rpc::Status::decode(status.details()).expect("the details are a google.rpc.Status");
            let pool = self.method.parent_pool().clone();
            to_json(pool.get_message_by_name("google.rpc.Status").expect("it is in the protos"), &decoded)
        });
        println!("{}", json!({"id": self.id, "error": {"code": status.code() as i32, "status": decoded}}));
    }
}

fn to_json(descriptor: MessageDescriptor, message: &impl Message) -> Value {
    let mut dynamic = DynamicMessage::new(descriptor);
    dynamic.transcode_from(message).expect("the stubs are of the same protos");
    serde_json::to_value(dynamic).expect("every message has JSON")
}

macro_rules! unary {
    ($call:ident, $module:ident::$client:ident, $method:ident) => {
        match $module::$client::new($call.channel.clone()).$method($call.request()).await {
            Ok(reply) => $call.reply(reply.get_ref()),
            Err(status) => $call.error(&status),
        }
    };
}

macro_rules! stream {
    ($call:ident, $module:ident::$client:ident, $method:ident) => {
        match $module::$client::new($call.channel.clone()).$method($call.request()).await {
            Ok(replies) => {
                let mut replies = replies.into_inner();
                loop {
                    match replies.message().await {
                        Ok(Some(reply)) => $call.reply(&reply),
                        Ok(None) => break,
                        Err(status) => break $call.error(&status),
                    }
                }
            }
            Err(status) => $call.error(&status),
        }
    };
}

async fn make(call: Call) {
    include!(concat!(env!("OUT_DIR"), "/calls.rs"))
}

fn setting(name: &str) -> Option<String> {
    env::var(format!("CONFORMANCE_{name}")).ok().filter(|value| !value.is_empty())
}

fn channel() -> Result<Channel, Box<dyn Error>> {
    let address = setting("ADDRESS").ok_or("CONFORMANCE_ADDRESS is not set")?;
    if address.starts_with("unix:") {
        return Ok(Endpoint::from_shared(address)?.connect_lazy());
    }
    let Some(ca) = setting("CA") else {
        return Ok(Endpoint::from_shared(format!("http://{address}"))?.connect_lazy());
    };
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(fs::read(ca)?));
    if let (Some(cert), Some(key)) = (setting("CERT"), setting("KEY")) {
        tls = tls.identity(Identity::from_pem(fs::read(cert)?, fs::read(key)?));
    }
    if let Some(name) = setting("SERVER_NAME") {
        tls = tls.domain_name(name);
    }
    Ok(Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls)?.connect_lazy())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let pool = DescriptorPool::decode(DESCRIPTORS)?;
    let channel = channel()?;
    let authorization = match setting("TOKEN_FILE") {
        Some(file) => Some(format!("Bearer {}", fs::read_to_string(file)?.trim()).parse()?),
        None => None,
    };
    let mut calls = HashMap::new();
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let mut given: Value = serde_json::from_str(&line)?;
        if let Some(id) = given["cancel"].as_u64() {
            calls.remove(&id).map(|call: tokio::task::JoinHandle<()>| call.abort());
            continue;
        }
        let id = given["id"].as_u64().ok_or("a call has no id")?;
        let (service, name) =
            given["method"].as_str().and_then(|path| path[1..].split_once('/')).ok_or("a call has no method")?;
        let service = pool.get_service_by_name(service).ok_or("there is no such service")?;
        let method = service.methods().find(|method| method.name() == name).ok_or("there is no such method")?;
        let request = DynamicMessage::deserialize(method.input(), given["request"].take())?;
        let call = Call { id, method, request, channel: channel.clone(), authorization: authorization.clone() };
        calls.insert(id, tokio::spawn(make(call)));
    }
    Ok(())
}
