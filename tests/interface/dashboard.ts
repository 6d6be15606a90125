// What stands before docs/grafana-dashboard.json in a file that `run.sh` makes of both: the compiler holds it to the types
// that Grafana publishes of dashboards and of both data sources' queries.
import type { MetricsQuery as CloudWatch } from "@grafana/grafana-foundation-sdk/cloudwatch";
import type { Dashboard, Panel, RowPanel } from "@grafana/grafana-foundation-sdk/dashboard";
import type { Dataquery as Prometheus } from "@grafana/grafana-foundation-sdk/prometheus";

// What JSON can hold of a type: the values of its enums, and none of its methods.
type Plain<T> = T extends string ? `${T}`
  : T extends number | boolean | null | undefined ? T
  : T extends (infer U)[] ? Plain<U>[]
  : T extends object ? { [K in keyof T as T[K] extends (...args: never[]) => unknown ? never : K]: Plain<T[K]> }
  : T;
type Shown = Omit<Plain<Panel>, "targets" | "options" | "fieldConfig"> & {
  targets: (Plain<Prometheus> | Plain<CloudWatch>)[];
  options: object;
  fieldConfig: object;
};
export const dashboard: Omit<Plain<Dashboard>, "panels"> & { panels: (Shown | Plain<RowPanel>)[] } =
