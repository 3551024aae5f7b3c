//! The servers that are measured: a Postgres and agents that are started on a temporary folder, or a server
//! that runs already.

use super::TargetArgs;
use super::http::Client;
use crate::Outcome;
use millpond_control_plane::embedded::{DATABASE, EmbeddedPostgres, Settings};
use millpond_control_plane::{DatabaseOptions, PostgresControlPlane};
use millpond_core::saturated;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

pub struct Cluster {
    clients: Vec<Arc<Client>>,
    agents: Vec<Agent>,
    postgres: Option<EmbeddedPostgres>,
    folder: Option<TempDir>,
}

struct Agent {
    child: Child,
    /// Kept open, so that the agent can write to its standard output.
    _stdout: Lines<BufReader<ChildStdout>>,
}

impl Cluster {
    pub async fn start(target: &TargetArgs) -> Outcome<Self> {
        if let Some(url) = &target.url {
            return Ok(Self {
                clients: vec![Client::new(url)?],
                agents: Vec::new(),
                postgres: None,
                folder: None,
            });
        }
        let mut cluster = Self::database().await?;
        let bucket = cluster.folder.as_ref().ok_or("no folder")?.path().join("bucket");
        for _ in 0..target.agents {
            cluster
                .add_agent(
                    target,
                    target.store.clone().unwrap_or_else(|| format!("file://{}", bucket.display())),
                )
                .await?;
        }
        Ok(cluster)
    }

    /// Starts only Postgres, with the current schema.
    pub async fn database() -> Outcome<Self> {
        // Postgres may run as another user, which must be able to enter the folder, whatever the umask.
        let passable = std::fs::Permissions::from_mode(0o755);
        let folder = tempfile::Builder::new().prefix("millpond-bench-").permissions(passable).tempdir()?;
        let postgres =
            EmbeddedPostgres::start(Settings { data_dir: folder.path().join("postgres"), durable: true })
                .await?;
        PostgresControlPlane::migrate(postgres.connect_options(DATABASE)).await?;
        Ok(Self { clients: Vec::new(), agents: Vec::new(), postgres: Some(postgres), folder: Some(folder) })
    }

    async fn add_agent(&mut self, target: &TargetArgs, store: String) -> Outcome<()> {
        let postgres = self.postgres.as_ref().ok_or("no database")?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["agent", "--listen", "127.0.0.1:0", "--store", &store]).args(&target.agent_arg);
        if let Some(latency) = &target.store_latency {
            command.args(["--store-latency", latency]);
        }
        command.env("MILLPOND_DATABASE_URL", postgres.database_url(DATABASE)).env("MILLPOND_LOG", "warn");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let mut stdout = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
        let line = stdout.next_line().await?.ok_or("the agent did not start")?;
        let url =
            line.strip_prefix("Millpond is ready on ").ok_or_else(|| format!("the agent said {line:?}"))?;
        self.clients.push(Client::new(url)?);
        self.agents.push(Agent { child, _stdout: stdout });
        Ok(())
    }

    pub fn first(&self) -> &Arc<Client> {
        &self.clients[0]
    }

    pub fn last(&self) -> &Arc<Client> {
        &self.clients[self.clients.len() - 1]
    }

    /// The agent for a request with this number: agents take turns.
    pub fn turn(&self, number: u32) -> &Arc<Client> {
        let count = u32::try_from(self.clients.len()).unwrap_or(1);
        self.clients.get(saturated::<usize, _>(number % count)).unwrap_or(&self.clients[0])
    }

    /// Options to connect to the database, `None` if a running server is measured.
    pub fn database_options(&self) -> Option<DatabaseOptions> {
        self.postgres.as_ref().map(|p| p.connect_options(DATABASE))
    }

    /// Metrics of all agents and `cpu`, summed over agents and labels. The value of the labels `operation`,
    /// `placement`, `call` and `job` is kept, after a slash: `name/value`.
    pub async fn counters(&self) -> Outcome<BTreeMap<String, f64>> {
        let mut sums = BTreeMap::new();
        for client in &self.clients {
            let text = client.get("/metrics", "text/plain").await?.ok()?.bytes;
            for line in String::from_utf8_lossy(&text).lines().filter(|l| !l.starts_with('#')) {
                let Some((series, value)) = line.rsplit_once(' ') else { continue };
                let (name, labels) = series.split_once('{').unwrap_or((series, ""));
                let label = ["operation", "placement", "call", "job"]
                    .iter()
                    .find_map(|l| labels.split_once(&format!("{l}=\""))?.1.split('"').next());
                let name = label.map_or(name.to_owned(), |l| format!("{name}/{l}"));
                *sums.entry(name).or_insert(0.0) += value.parse().unwrap_or(0.0);
            }
        }
        sums.extend(self.cpu_seconds().map(|s| ("cpu".to_owned(), s)));
        Ok(sums)
    }

    /// The highest peak memory of an agent, in MiB; `None` if a running server is measured.
    pub fn peak_memory_mib(&self) -> Option<f64> {
        let peak = |agent: &Agent| {
            let status = std::fs::read_to_string(format!("/proc/{}/status", agent.child.id()?)).ok()?;
            let line = status.lines().find(|l| l.starts_with("VmHWM"))?;
            line.split_whitespace().nth(1)?.parse::<f64>().ok().map(|kib| kib / 1_024.0)
        };
        self.agents.iter().filter_map(peak).reduce(f64::max)
    }

    /// Processor time that the agents have used so far, in seconds; `None` if a running server is measured.
    pub fn cpu_seconds(&self) -> Option<f64> {
        let used = |agent: &Agent| Some(Stat::of(agent.child.id()?)?.cpu_seconds);
        self.agents.iter().filter_map(used).reduce(|a, b| a + b)
    }

    /// Processor time that the processes of Postgres have used which are there now, in seconds; `None` if a
    /// running server is measured.
    pub fn postgres_cpu_seconds(&self) -> Option<f64> {
        let data = self.folder.as_ref().filter(|_| self.postgres.is_some())?.path().join("postgres");
        let main: u32 =
            std::fs::read_to_string(data.join("postmaster.pid")).ok()?.lines().next()?.parse().ok()?;
        let all = std::fs::read_dir("/proc").ok()?.filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            Stat::of(pid).filter(|stat| pid == main || stat.parent == main)
        });
        Some(all.map(|stat| stat.cpu_seconds).sum())
    }

    pub async fn stop(mut self) -> Outcome<()> {
        for agent in &mut self.agents {
            if let Some(pid) = agent.child.id() {
                Command::new("kill").arg(pid.to_string()).status().await?;
            }
            agent.child.wait().await?;
        }
        if let Some(postgres) = self.postgres.take() {
            postgres.stop().await?;
        }
        Ok(())
    }
}

/// What `proc_pid_stat(5)` says of a process.
struct Stat {
    parent: u32,
    cpu_seconds: f64,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Counted after the process name, which may contain spaces: the first is the state, field 3.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        // utime and stime, fields 14 and 15, in ticks, of which Linux has 100 per second.
        let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
        Some(Self { parent: fields.get(1)?.parse().ok()?, cpu_seconds: ticks / 100.0 })
    }
}
