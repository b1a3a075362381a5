//! nginx as a thoughtful operator would set it up for MCP: one process, kept-alive upstream connections, and answers
//! buffered only where the server does not forbid it (`X-Accel-Buffering: no` on its event streams).

use std::env;
use std::io;
use std::path::PathBuf;

use crate::process::Program;
use crate::tls::Face;

/// The program `nginx` with its configuration, or an error that says how to get it.
pub fn program() -> io::Result<Program> {
    let search = env::var_os("PATH").unwrap_or_default();
    // Debian keeps it in a directory that is not on everybody's PATH.
    let nginx = env::split_paths(&search)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|directory| directory.join("nginx"))
        .find(|file| file.is_file())
        .ok_or_else(|| io::Error::other("nginx is not there; on Debian: apt-get install nginx-light"))?;
    let command = format!("{} -p {{dir}} -c {{dir}}/nginx.conf -e stderr", nginx.display());
    let files = vec![("nginx.conf", CONFIGURATION.replace("{listening}", "{listen} backlog=4096"))];
    Ok(Program { files, ..Program::new("nginx", command) })
}

/// The same with TLS on its side of the clients.
pub fn secure(face: &Face) -> io::Result<Program> {
    let listening =
        "{listen} ssl backlog=4096; ssl_certificate {dir}/certificate.pem; ssl_certificate_key {dir}/key.pem";
    let files = vec![
        ("nginx.conf", CONFIGURATION.replace("{listening}", listening)),
        ("certificate.pem", face.certificate.clone()),
        ("key.pem", face.key.clone()),
    ];
    Ok(Program { name: "nginx+tls", files, is_secure: true, ..program()? })
}

/// `proxy_buffers` hold a 64 KiB answer whole, so that nginx is not slowed by small reads or temporary files.
const CONFIGURATION: &str = "
daemon off;
master_process off;
pid {dir}/nginx.pid;
error_log stderr error;
events { worker_connections 18000; }
http {
    access_log off;
    tcp_nodelay on;
    keepalive_requests 1000000000;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    scgi_temp_path {dir}/scgi;
    uwsgi_temp_path {dir}/uwsgi;
    upstream echo {
        server {upstream};
        keepalive 128;
        keepalive_requests 1000000000;
    }
    server {
        listen {listening};
        location / {
            proxy_pass http://echo;
            proxy_http_version 1.1;
            proxy_set_header Connection '';
            proxy_buffer_size 8k;
            proxy_buffers 16 8k;
            proxy_busy_buffers_size 64k;
            proxy_max_temp_file_size 0;
            proxy_read_timeout 1h;
        }
    }
}
";
