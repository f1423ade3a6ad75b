//! Generates the stubs, and a call of each of their methods that does not stream requests.
use std::{env, fmt::Write, fs, path::Path};

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let protos = env::var("PROTOS")?;
    println!("cargo::rerun-if-env-changed=PROTOS");
    println!("cargo::rerun-if-changed={protos}");
    let mut names = vec!["google/rpc/error_details.proto".into(), "google/rpc/status.proto".into()];
    for entry in fs::read_dir(Path::new(&protos).join("cache_sidecar/v1"))? {
        let name = entry?.file_name().into_string().map_err(|name| format!("{name:?} is not UTF-8"))?;
        if name.ends_with(".proto") {
            names.push(format!("cache_sidecar/v1/{name}"));
        }
    }
    let files = protox::compile(names, [&protos])?;
    let out = env::var("OUT_DIR")?;
    fs::write(format!("{out}/descriptors"), files.encode_to_vec())?;

    let mut calls = String::from("match call.method.full_name() {\n");
    for service in files.file.iter().flat_map(|file| &file.service) {
        for method in service.method.iter().filter(|method| !method.client_streaming()) {
            let (service, name) = (service.name(), method.name());
            let kind = if method.server_streaming() { "stream" } else { "unary" };
            let (module, function) = (snake(service), snake(name));
            writeln!(
                calls,
                "\"cache_sidecar.v1.{service}.{name}\" => {kind}!(call, {module}_client::{service}Client, {function}),"
            )?;
        }
    }
    calls.push_str("other => panic!(\"the method {other} is not known\"),\n}\n");
    fs::write(format!("{out}/calls.rs"), calls)?;
    tonic_prost_build::configure().build_server(false).include_file("all.rs").compile_fds(files)?;
    Ok(())
}

fn snake(name: &str) -> String {
    let mut snake = String::new();
    for (position, letter) in name.char_indices() {
        if position > 0 && letter.is_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}
