//! Postgres and Redis by TLS: a whole chat over both, and nobody who cannot show who they are.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    time::Duration,
};

use chat_core::{
    Kind,
    bus::Publisher,
    config::{Database, Redis, Secret},
    store::{Store, migrate::migrate},
};
use harness::{
    app::{App, connect, until},
    services::{Entrance, Options, Services, User, free_port},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};

/// An authority, and the file by which others trust it.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: PathBuf,
}

impl Authority {
    fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let file = folder.join(format!("{name}.pem"));
        fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: Issuer::new(params, key), file }
    }

    /// A certificate and its key, in files that both servers may read.
    fn certify(&self, folder: &Path, name: &str, host: &str, until_year: i32) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until_year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let (public, private) = (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
        fs::write(&public, certificate.pem()).unwrap();
        fs::write(&private, key.serialize_pem()).unwrap();
        (public, private)
    }
}

/// Services that show certificates.
struct Guarded {
    services: Services,
    authority: Authority,
    stranger: Authority,
    redis_port: u16,
    database: String,
}

impl Guarded {
    async fn start() -> Self {
        let services = Services::start(&Options { durable: false, max_connections: 60 }, &|_| {}).await.unwrap();
        let folder = services.folder().to_owned();
        let (authority, stranger) = (Authority::new(&folder, "authority"), Authority::new(&folder, "stranger"));
        let guarded =
            Self { services, authority, stranger, redis_port: free_port().unwrap(), database: "postgres".to_owned() };
        guarded.show("good", "127.0.0.1", 2090).await;
        guarded
    }

    /// Makes both servers show a certificate for this host that holds so long.
    async fn show(&self, name: &str, host: &str, until_year: i32) {
        let folder = self.services.folder();
        let (public, private) = self.authority.certify(folder, name, host, until_year);
        let mut redis =
            redis::Client::open(self.services.redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
        let mut set = redis::cmd("CONFIG");
        set.arg("SET").arg("tls-cert-file").arg(public.to_str()).arg("tls-key-file").arg(private.to_str());
        set.arg("tls-ca-cert-file").arg(self.authority.file.to_str()).arg("tls-auth-clients").arg("no");
        set.arg("tls-port").arg(self.redis_port);
        set.exec_async(&mut redis).await.unwrap();

        // Postgres reads a key that is its own and nobody else's.
        let own = folder.join("postgres").join(format!("{name}.key"));
        fs::copy(&private, &own).unwrap();
        let owner = fs::metadata(folder.join("postgres")).unwrap();
        chown(&own, Some(owner.uid()), Some(owner.gid())).unwrap();
        fs::set_permissions(&own, fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(&public, fs::Permissions::from_mode(0o644)).unwrap();
        let superuser = connect(&self.services.postgres.superuser_url("postgres")).await.unwrap();
        for statement in [
            format!("alter system set ssl_cert_file = '{}'", public.display()),
            format!("alter system set ssl_key_file = '{}'", own.display()),
            "alter system set ssl = on".to_owned(),
            "select pg_reload_conf()".to_owned(),
        ] {
            superuser.batch_execute(&statement).await.unwrap();
        }
        let shown = public.display().to_string();
        until("Postgres to show it", || async {
            let fresh = connect(&self.services.postgres.superuser_url("postgres")).await?;
            let row = fresh.query_one("select current_setting('ssl_cert_file') || current_setting('ssl')", &[]).await?;
            Ok(row.get::<_, String>(0) == format!("{shown}on"))
        })
        .await
        .unwrap();
    }

    fn entrance(&self, host: &str, authority: &Authority) -> Entrance {
        self.services.redis.entrance.protected(format!("{host}:{}", self.redis_port), &authority.file)
    }

    fn database(&self, url: &str, authority: &Authority) -> String {
        format!("{url}?sslmode=verify-full&sslrootcert={}", authority.file.display())
    }

    /// What becomes of both connections.
    async fn tried(&self, host: &str, authority: &Authority) -> (Result<(), String>, Result<(), String>) {
        let url = self.services.postgres.superuser_url(&self.database).replace("127.0.0.1", host);
        let url = Secret::from(self.database(&url, authority));
        let database = match Store::connect(&Database { url, pool_size: 1 }).await {
            Ok(_) => Ok(()),
            // It came so far as to see who it is.
            Err(error) if error.kind() == Kind::Internal => Ok(()),
            Err(error) => Err(format!("{error:?}")),
        };
        let redis = Publisher::new(&self.entrance(host, authority).settings(User::Conversations)).unwrap();
        (database, redis.ping().await.map_err(|error| format!("{error:?}")))
    }
}

fn assert_refused((database, redis): (Result<(), String>, Result<(), String>), because: &str) {
    let (database, redis) = (database.unwrap_err(), redis.unwrap_err());
    assert!(database.contains("DATABASE_URL") && database.contains(because), "{database}");
    assert!(redis.contains(because), "{redis}");
    assert!(!database.contains("sslrootcert=") && !database.contains("postgres://"), "{database}");
}

#[tokio::test]
async fn a_chat_goes_over_tls_to_postgres_and_redis() {
    let guarded = Guarded::start().await;
    let database = |url: &str| guarded.database(url, &guarded.authority);
    let app = App::on(&guarded.services, |setting| {
        setting.database_url = database(&setting.database_url);
        setting.redis = guarded.entrance("127.0.0.1", &guarded.authority);
    })
    .await
    .unwrap();
    migrate(&Secret::from(database(&app.owner_url))).await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    socket.message("hello", None).await.unwrap();
    assert_eq!(socket.until("response").await.unwrap()["text"], "Echo: hello");

    let superuser = connect(&guarded.services.postgres.superuser_url("postgres")).await.unwrap();
    let plain = "select count(*) filter (where not ssl), count(*) filter (where ssl) from pg_stat_ssl
        join pg_stat_activity using (pid) where usename = 'chat_app'";
    let row = superuser.query_one(plain, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 0, "every connection of the product is protected");
    assert!(row.get::<_, i64>(1) > 0);
    app.finish().await.unwrap();
    guarded.services.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_cannot_show_who_it_is_is_refused() {
    let guarded = Guarded::start().await;
    let (database, redis) = guarded.tried("127.0.0.1", &guarded.authority).await;
    assert_eq!((database, redis), (Ok(()), Ok(())));
    assert_refused(guarded.tried("127.0.0.1", &guarded.stranger).await, "invalid peer certificate");
    // The certificate names the address alone.
    assert_refused(guarded.tried("localhost", &guarded.authority).await, "not valid for name");
    guarded.show("expired", "127.0.0.1", 2021).await;
    assert_refused(guarded.tried("127.0.0.1", &guarded.authority).await, "expired");
    guarded.services.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_it_is_demanded() {
    let services = Services::start(&Options { durable: false, max_connections: 10 }, &|_| {}).await.unwrap();
    let authority = Authority::new(services.folder(), "authority");
    let url = format!(
        "{}?sslmode=verify-full&sslrootcert={}",
        services.postgres.superuser_url("postgres"),
        authority.file.display()
    );
    let Err(error) = Store::connect(&Database { url: Secret::from(url), pool_size: 1 }).await else {
        panic!("it took a server without TLS");
    };
    let said = format!("{error:?}");
    assert!(said.contains("DATABASE_URL") && said.contains("does not support TLS"), "{said}");
    let entrance = services.redis.entrance.protected(&services.redis.entrance.address, &authority.file);
    let redis = Publisher::new(&entrance.settings(User::Hub)).unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(20), redis.ping()).await.unwrap().is_err());
    services.stop().await.unwrap();
}

#[test]
fn a_redis_url_that_would_believe_anybody_is_refused_by_its_name() {
    let absent = Some("/hunter2/absent.pem".to_owned());
    for (url, ca_file, named) in [
        ("rediss://hub:hunter2@redis.example/#insecure", None, "REDIS_URL"),
        ("redis://hub:hunter2@redis.example", absent.clone(), "REDIS_CA_FILE"),
        ("rediss://hub:hunter2@redis.example", absent, "REDIS_CA_FILE"),
    ] {
        let Err(error) = Publisher::new(&Redis { url: Secret::from(url.to_owned()), bus_url: None, ca_file }) else {
            panic!("{url} was taken");
        };
        let said = format!("{error:?}");
        assert!(said.contains(named) && !said.contains("hunter2"), "{said}");
    }
    for bus in ["rediss://hub:hunter2@one.example, rediss://hub:hunter2@two.example/#insecure", "hunter2", ","] {
        let url = Secret::from("rediss://hub:hunter2@redis.example".to_owned());
        let Err(error) = Publisher::new(&Redis { url, bus_url: Some(Secret::from(bus.to_owned())), ca_file: None })
        else {
            panic!("{bus} was taken");
        };
        let said = format!("{error:?}");
        assert!(said.contains("REDIS_BUS_URL") && !said.contains("hunter2"), "{said}");
    }
}
