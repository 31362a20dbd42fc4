// The OpenAPI document as a page to read, without anything from other hosts.

import { $, el } from "./dom.js";

const document_ = await (await fetch("openapi.json")).json();
const schemas = document_.components.schemas;

for (const [path, methods] of Object.entries(document_.paths)) {
  for (const [method, operation] of Object.entries(methods)) $("docs").append(describe(path, method, operation));
}

function describe(path, method, operation) {
  const body = operation.requestBody?.content ?? {};
  const ok = Object.entries(operation.responses).find(([status]) => status.startsWith("2"));
  return el(
    "details",
    { class: "card" },
    el("summary", {}, el("b", { class: "method" }, method.toUpperCase()), el("code", {}, path), el("span", { class: "fine" }, operation.description ?? operation.summary)),
    table("Parameters", (operation.parameters ?? []).map((each) => [each.name, each.in, type(each.schema), each.schema.default ?? "", each.description ?? ""])),
    ...Object.entries(body).map(([kind, { schema }]) => fields(`Body, ${kind}`, schema)),
    ok ? fields(`Answer ${ok[0]}`, ok[1].content?.["application/json"]?.schema) : null,
    el("p", { class: "fine" }, `Problems: ${Object.keys(operation.responses).filter((status) => status >= "400").join(", ") || "none"}`),
  );
}

function fields(title, schema) {
  if (!schema) return el("p", { class: "fine" }, title);
  const named = resolve(schema);
  return table(title, Object.entries(named.properties ?? {}).map(([name, each]) => [name, "", type(each), each.default === undefined || each.default === null ? "" : JSON.stringify(each.default), each.description ?? ""]), named.description);
}

function table(title, rows, text = "") {
  if (!rows.length) return "";
  return el("section", {}, el("h3", {}, title), text ? el("p", { class: "fine" }, text) : null, el("table", {}, rows.map((row) => el("tr", {}, row.map((cell, at) => el("td", {}, at ? String(cell) : el("code", {}, cell)))))));
}

function resolve(schema) {
  return schema.$ref ? schemas[schema.$ref.split("/").at(-1)] : schema;
}

function type(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.anyOf) return schema.anyOf.map(type).join(" | ");
  if (schema.type === "array") return `list of ${type(schema.items)}`;
  const range = [schema.minimum !== undefined && `from ${schema.minimum}`, schema.maximum !== undefined && `to ${schema.maximum}`].filter(Boolean).join(" ");
  return [schema.type ?? "any", range].filter(Boolean).join(" ");
}
