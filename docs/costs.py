#!/usr/bin/env python3
"""Fills in the tables of costs.md from the prices and assumptions below: docs/costs.py [--check]."""
import pathlib
import sys

HOURS = 730  # a month

# US dollars, us-east-1, on demand, without free tiers. The pages are those of aws.amazon.com/…/pricing.
PRICES = {
    "lambda_gb_s": (0.0000133334, "lambda", "arm64, GB-second"),
    "lambda_request": (0.20e-6, "lambda", "request"),
    "http_api": (1.00e-6, "api-gateway", "HTTP API request"),
    "ws_message": (1.00e-6, "api-gateway", "WebSocket message of up to 32 KB"),
    "ws_minute": (0.25e-6, "api-gateway", "WebSocket connection minute"),
    "sqs": (0.40e-6, "sqs", "request, standard queue"),
    "fargate_vcpu": (0.03238, "fargate", "arm64, core and hour"),
    "fargate_gb": (0.00356, "fargate", "arm64, GB and hour"),
    "alb_hour": (0.0225, "elasticloadbalancing", "hour"),
    "alb_lcu": (0.008, "elasticloadbalancing", "LCU and hour, 3,000 sockets each"),
    "nat_hour": (0.045, "vpc", "gateway and hour"),
    "nat_gb": (0.045, "vpc", "GB through it"),
    "endpoint_hour": (0.01, "privatelink", "endpoint, zone and hour"),
    "proxy_hour": (0.015, "rds/proxy", "virtual core and hour, two at least"),
    "pg_micro": (0.016, "rds/postgresql", "db.t4g.micro, hour"),
    "pg_large": (0.168, "rds/postgresql", "db.m7g.large, hour, one zone"),
    "pg_gb": (0.115, "rds/postgresql", "gp3, GB and month, one zone"),
    "redis_micro": (0.016, "elasticache", "cache.t4g.micro, hour"),
    "redis_large": (0.158, "elasticache", "cache.m7g.large, hour"),
    "secret": (0.40, "secrets-manager", "secret and month"),
    "alarm": (0.10, "cloudwatch", "alarm and month"),
    "metric": (0.30, "cloudwatch", "own metric and month"),
    "dashboard": (3.00, "cloudwatch", "dashboard and month"),
    "log_gb": (0.50, "cloudwatch", "GB of logs taken in"),
    "out_gb": (0.09, "ec2/on-demand", "GB to the internet"),
}
# What a turn is, for the sake of a sum. Models themselves are not in it: they cost more than all of this.
TURNS = 1_000_000
SECONDS = 8  # of an answer
MEMORY = 0.5  # GB of the orchestrator
DELTAS = 150  # frames of an answer, collected for 40 ms each
MODEL_KB, BROWSER_KB, LOG_KB, STORED_KB, REST = 70, 20, 1, 3, 0.5
p = {name: price for name, (price, _, _) in PRICES.items()}


def hub(vcpu, gb):
    return HOURS * (vcpu * p["fargate_vcpu"] + gb * p["fargate_gb"])


def table(rows, heads):
    out = ["| " + " | ".join(heads) + " |", "|---|---|" + "---:|" * (len(heads) - 2)]
    for row in rows:
        out.append("| " + " | ".join([*row[:2], *(f"{cost:,.2f}" for cost in row[2:])]) + " |")
    sums = [sum(row[at] for row in rows) for at in range(2, len(heads))]
    out.append("| **together** | | " + " | ".join(f"**{total:,.2f}**" for total in sums) + " |")
    return "\n".join(out), sums


def turns():
    def lambda_cost(shared):
        return TURNS / shared * (SECONDS * MEMORY * p["lambda_gb_s"] + p["lambda_request"])

    rest = TURNS * REST * (p["http_api"] + p["lambda_request"] + 0.02 * MEMORY * p["lambda_gb_s"])
    gb = TURNS / 1e6
    rows = [
        ("orchestrator", f"turns / sharing × ({SECONDS} s × {MEMORY} GB × GB-second + request)", lambda_cost(1), lambda_cost(4)),
        ("REST", f"turns × {REST} × (HTTP API + request + 20 ms × {MEMORY} GB)", rest, rest),
        ("queue", "turns × 4 requests: send, receive, delete, one more", TURNS * 4 * p["sqs"], TURNS * 4 * p["sqs"]),
        ("NAT, traffic", f"turns × {MODEL_KB} KB to and from the model", gb * MODEL_KB * p["nat_gb"], gb * MODEL_KB * p["nat_gb"]),
        ("to browsers", f"turns × {BROWSER_KB} KB", gb * BROWSER_KB * p["out_gb"], gb * BROWSER_KB * p["out_gb"]),
        ("logs", f"turns × {LOG_KB} KB", gb * LOG_KB * p["log_gb"], gb * LOG_KB * p["log_gb"]),
        ("Postgres, storage", f"turns × {STORED_KB} KB × GB-month, two zones", gb * STORED_KB * 2 * p["pg_gb"], gb * STORED_KB * 2 * p["pg_gb"]),
    ]
    return table(rows, ["item", "formula", "one turn an environment", "four share one"])


def idle():
    rows = [
        ("hubs", "1 × (¼ core, ½ GB); 2 × (½ core, 1 GB)", hub(0.25, 0.5), 2 * hub(0.5, 1)),
        ("balancer", "hours + LCUs (one; 10,000 sockets)", HOURS * (p["alb_hour"] + p["alb_lcu"]), HOURS * (p["alb_hour"] + 10 / 3 * p["alb_lcu"])),
        ("NAT, hours", "1 gateway; 2", HOURS * p["nat_hour"], 2 * HOURS * p["nat_hour"]),
        ("Postgres", "db.t4g.micro, 20 GB; 2 × db.m7g.large, 100 GB in each", HOURS * p["pg_micro"] + 20 * p["pg_gb"], 2 * (HOURS * p["pg_large"] + 100 * p["pg_gb"])),
        ("Redis", "cache.t4g.micro; 2 × cache.m7g.large", HOURS * p["redis_micro"], 2 * HOURS * p["redis_large"]),
        ("queue, polled", "2 queues × 5 polls of 20 s", 10 * HOURS * 180 * p["sqs"], 10 * HOURS * 180 * p["sqs"]),
        ("secrets", "18", 18 * p["secret"], 18 * p["secret"]),
        ("alarms, metrics, dashboard", "16 × alarm + 13 × metric (one model) + 1", 16 * p["alarm"] + 13 * p["metric"] + p["dashboard"], 16 * p["alarm"] + 13 * p["metric"] + p["dashboard"]),
        ("functions", "nothing runs", 0, 0),
    ]
    return table(rows, ["item", "formula", "dev", "prod"])


def others():
    sockets, minutes = 10_000, HOURS * 60
    store = 2 * (HOURS * p["pg_large"] + 100 * p["pg_gb"]) + 2 * HOURS * p["redis_large"]
    generation = TURNS * (SECONDS * MEMORY * p["lambda_gb_s"] + p["lambda_request"])
    ours = 2 * hub(0.5, 1) + HOURS * (p["alb_hour"] + 10 / 3 * p["alb_lcu"])
    keepalive = sockets * minutes / 9 * 2 * p["ws_message"]
    gateway = [
        (generation, TURNS * (DELTAS + 3) * p["ws_message"], sockets * minutes * p["ws_minute"] + keepalive),
        (generation, TURNS * (10 + 3) * p["ws_message"], sockets * minutes * p["ws_minute"] + keepalive),
    ]
    # Two web servers of a core for 10,000 sockets at 33 KB and a single thread each, two workers that hold generations.
    python = 2 * hub(1, 2) + 2 * hub(0.5, 1) + HOURS * (p["alb_hour"] + 10 / 3 * p["alb_lcu"])
    rows = [
        ("this", generation, 0.0, ours, store),
        ("this, four turns share an environment", generation / 4, 0.0, ours, store),
        ("API Gateway WebSockets, every delta", *gateway[0], store),
        ("API Gateway WebSockets, ten deltas a reply", *gateway[1], store),
        ("always-on Python", 0.0, 0.0, python, store),
    ]
    out = ["| | generations | frames | sockets held | Postgres, Redis | together |", "|---|---:|---:|---:|---:|---:|"]
    out += ["| " + " | ".join([row[0], *(f"{cost:,.0f}" for cost in row[1:]), f"{sum(row[1:]):,.0f}"]) + " |" for row in rows]
    return "\n".join(out)


def prices():
    out = ["| price in USD | for | page |", "|---:|---|---|"]
    out += [f"| {price:.10f}".rstrip("0").rstrip(".") + f" | {what} | `{page}` |" for price, page, what in PRICES.values()]
    return "\n".join(out)


page = pathlib.Path(__file__).with_name("costs.md")
text = before = page.read_text()
for name, made in {"turns": turns()[0], "idle": idle()[0], "others": others(), "prices": prices()}.items():
    head, rest = text.split(f"<!-- {name} -->\n", 1)
    text = f"{head}<!-- {name} -->\n{made}\n<!-- end -->{rest.split('<!-- end -->', 1)[1]}"
if "--check" in sys.argv and text != before:
    sys.exit("docs/costs.md is not what docs/costs.py makes")
page.write_text(text)
