//! A real Prometheus in a namespace, asked over its HTTP API.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::{Lab, Netns, Process, holds};

const PORT: u16 = 9090;

/// A running Prometheus. It scrapes and judges its rules once a second.
pub struct Prometheus {
    space: Netns,
    process: Process,
}

impl Prometheus {
    /// Starts it with targets, as job, address:port, instance, and these rules.
    pub fn start(lab: &Lab, space: &Netns, targets: &[[String; 3]], rules: &str) -> Self {
        let [config, rule_file, data] = ["prometheus.yml", "rules.yml", "prometheus.data"].map(|name| lab.path(name));
        let list: Vec<String> = targets
            .iter()
            .map(|[job, address, instance]| {
                let labels = format!("job: \"{job}\", instance: \"{instance}\"");
                format!("      - {{ targets: [\"{address}\"], labels: {{ {labels} }} }}\n")
            })
            .collect();
        let text = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}\n\
             rule_files: [{}]\nscrape_configs:\n  - job_name: all\n    static_configs:\n{}",
            rule_file.display(),
            list.concat()
        );
        fs::write(&rule_file, rules).unwrap();
        fs::write(&config, text).unwrap();
        let args = [
            &format!("--config.file={}", config.display()),
            &format!("--storage.tsdb.path={}", data.display()),
            &format!("--web.listen-address=127.0.0.1:{PORT}"),
            "--log.level=warn",
        ];
        let process = Process::start(lab, space, "prometheus", "prometheus", &args, &[]);
        let mut prometheus = Self { space: space.clone(), process };
        holds("Prometheus is ready", Duration::from_secs(30), || {
            assert!(prometheus.process.running(), "Prometheus ended at once:\n{}", prometheus.process.log());
            prometheus.space.http_get(PORT, "/-/ready").is_some_and(|(status, _)| status == 200)
        });
        prometheus
    }

    /// `data` of the answer to `GET /api/v1/PATH`, or what it complained about.
    pub fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
        let query: Vec<String> = parameters.iter().map(|(key, value)| format!("{key}={}", escaped(value))).collect();
        let path = format!("/api/v1/{path}?{}", query.join("&"));
        let (status, body) = self.space.http_get(PORT, &path).ok_or("nobody answers")?;
        let mut answer: Value = serde_json::from_str(&body).map_err(|e| format!("{status}: {e}: {body}"))?;
        if answer["status"] == "success" { Ok(answer["data"].take()) } else { Err(answer.to_string()) }
    }

    /// The result of an instant query.
    pub fn instant(&self, expr: &str) -> Result<Vec<Value>, String> {
        let data = self.get("query", &[("query", expr)])?;
        assert_eq!(data["resultType"], "vector", "{expr}");
        Ok(data["result"].as_array().unwrap().clone())
    }

    /// The result of a range query over the last `seconds`, a point each second.
    pub fn range(&self, expr: &str, seconds: u64) -> Result<Vec<Value>, String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let (start, end) = ((now - seconds).to_string(), now.to_string());
        let data = self.get("query_range", &[("query", expr), ("start", &start), ("end", &end), ("step", "1")])?;
        assert_eq!(data["resultType"], "matrix", "{expr}");
        Ok(data["result"].as_array().unwrap().clone())
    }

    /// The only value of an instant query.
    pub fn value(&self, expr: &str) -> Option<f64> {
        let result = self.instant(expr).unwrap_or_else(|error| panic!("{expr}: {error}"));
        assert!(result.len() < 2, "{expr}: {result:?}");
        result.first().map(|sample| sample["value"][1].as_str().unwrap().parse().unwrap())
    }
}

/// As it stands in a URL (RFC 3986 §2.3).
fn escaped(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    text.bytes().map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
