// Fields of the JSON schema as controls: every field of a request can be set, also those without a place of their own.

import { withField } from "./draft.js";
import { html } from "./lib.js";
import { Field, NumberInput, ReadText, Select, Switch } from "./ui/controls.js";
import { FileField } from "./ui/files.js";
import { number, plain, title } from "./words.js";

const NOT_OVER_HTTP = { Take: ["folder"] }; // folders of the server's are none of the client's
const KIND_OF_FILE = { image: "picture", video: "clip", audio: "sound", file: "sound", mask: "mask" };

const resolve = (schema, node) => (node?.$ref ? schema.$defs[node.$ref.split("/").pop()] : node);

/** Return what kind of control a field needs, with its limits. */
export function kindOf(schema, node) {
  const forms = (node.anyOf ?? [node]).map((form) => resolve(schema, form)).filter((form) => form.type !== "null");
  const has = (type) => forms.find((form) => form.type === type);
  const words = node["x-choices"]?.length ? node["x-choices"] : forms.map((form) => form.enum ?? form.examples).find(Boolean);
  const list = has("array");
  const record = forms.find((form) => form.type === "object" && form.properties);
  if (has("boolean")) return { kind: "switch" };
  if (list && list.items) return kindOfList(schema, list, forms);
  if (record) return { kind: "record", record };
  if (has("object")) return { kind: has("object").propertyNames?.enum ? "numbers" : "json", names: has("object").propertyNames?.enum };
  if (has("number") || has("integer")) {
    const own = has("integer") ?? has("number");
    const also = forms.find((form) => form.enum);
    return also ? { kind: "text" } : { kind: "number", own, whole: !!has("integer") };
  }
  if (has("string")) return words?.every((word) => typeof word === "string") ? { kind: "select", words } : { kind: "text" };
  return { kind: "file" };
}

function kindOfList(schema, list, forms) {
  const item = resolve(schema, list.items);
  if (item.enum) return { kind: "set", words: item.enum };
  if (item.type === "number" || item.type === "integer") return { kind: "list", numbers: true };
  if (item.type === "string") return { kind: "list", numbers: false };
  return { kind: forms.length ? "json" : "text" };
}

export function unitOf(node) {
  const forms = node.anyOf ?? [node];
  return node["x-unit"] || forms.map((form) => form.unit).find(Boolean);
}

/** The control of one field. name: for its label; path: its place in the request, for what is wrong with it. */
export function SchemaField({ schema, name, node, value, onChange, problems = [], label = title(name) }) {
  const found = kindOf(schema, node);
  const help = plain(node["x-help"] || node.description);
  if (found.kind === "switch") {
    return html`<${Switch} label=${label} help=${help} value=${value ?? node.default} onChange=${(on) => onChange(on === node.default ? undefined : on)} />`;
  }
  if (found.kind === "record") {
    return html`<${RecordSwitch} ...${{ schema, label, help, value, onChange, problems, record: found.record }} />`;
  }
  const wide = ["json", "set", "numbers", "file"].includes(found.kind);
  return html`<${Field} label=${label} unit=${unitOf(node)} help=${help} problems=${problems} wide=${wide}>
    ${(props) => html`<${Control} ...${{ found, node, name, value, onChange, props }} />`}
  <//>`;
}

function Control({ found, node, name, value, onChange, props }) {
  const own = node.default === null || node.default === undefined ? "left out" : String(node.default);
  switch (found.kind) {
    case "number":
      return html`<${NumberInput} value=${value} onChange=${onChange} min=${found.own.minimum} max=${found.own.maximum}
        step=${found.whole ? 1 : "any"} placeholder=${own} ...${props} />`;
    case "select":
      return html`<${Select} value=${value} options=${found.words} onChange=${onChange} empty=${own} ...${props} />`;
    case "set":
      return html`<${WordSet} words=${found.words} value=${value ?? node.default} onChange=${onChange} label=${title(name)} />`;
    case "list":
      return html`<${ReadText} value=${value} shown=${(list) => list.join(", ")} read=${found.numbers ? readNumbers : readWords}
        onChange=${onChange} placeholder=${found.numbers ? "1, 0.8, 0.4, 0" : "left out"} ...${props} />`;
    case "numbers":
      return html`<div class="grid small" role="group" id=${props.id}>${found.names.map((word) => html`<label class="mini">${word}
        <${NumberInput} value=${value?.[word]} placeholder="1" onChange=${(next) => onChange(emptied(withField(value ?? {}, word, next)))} /></label>`)}</div>`;
    case "json":
      return html`<${ReadText} value=${value && Object.keys(value).length ? value : undefined} shown=${(record) => JSON.stringify(record)}
        read=${readJson} onChange=${onChange} lines=${2} placeholder="{}" ...${props} />`;
    case "file":
      return html`<${FileField} value=${value} onChange=${onChange} kind=${KIND_OF_FILE[name]} purpose=${name === "mask" ? "mask" : "input"} />`;
    default:
      return html`<input type="text" value=${value ?? ""} placeholder=${own} onInput=${(event) => onChange(readText(event.target.value))} ...${props} />`;
  }
}

const emptied = (record) => (Object.keys(record).length ? record : undefined);
const readText = (text) => (text.trim() === "" ? undefined : /^-?\d+(\.\d+)?$/.test(text.trim()) ? Number(text) : text);
const readWords = (text) => text.split(",").map((word) => word.trim()).filter(Boolean);

function readNumbers(text) {
  const numbers = text.split(/[,\s]+/).filter(Boolean).map(Number);
  if (numbers.some((one) => !Number.isFinite(one))) throw new Error("Write numbers with commas between them, such as 1, 0.5, 0.");
  return numbers;
}

function readJson(text) {
  try { return JSON.parse(text); } catch { throw new Error('This is no JSON; write it like {"cfg": 3}.'); }
}

function WordSet({ words, value, onChange, label }) {
  const held = [value].flat();
  const toggle = (word) => {
    const next = words.filter((one) => (one === word ? !held.includes(one) : held.includes(one)));
    if (next.length) onChange(next.length === words.length ? undefined : next);
  };
  return html`<div class="chips" role="group" aria-label=${label}>${words.map((word) => html`<button type="button" class="chip"
    aria-pressed=${String(held.includes(word))} onClick=${() => toggle(word)}>${title(word)}</button>`)}</div>`;
}

/** A record that may be left out: a switch, and its fields while it is on. */
function RecordSwitch({ schema, label, help, value, onChange, problems, record }) {
  const on = value !== undefined && value !== null;
  const first = record.required ? Object.fromEntries(record.required.map((name) => [name, record.properties[name].minimum ?? 0])) : {};
  return html`<div class="record wide">
    <${Switch} label=${label} help=${help} value=${on} onChange=${(next) => onChange(next ? first : undefined)} />
    ${problems.map((problem) => html`<p class="problem">${problem}</p>`)}
    ${on && html`<${RecordFields} schema=${schema} record=${record} value=${typeof value === "object" ? value : first} onChange=${onChange} />`}
  </div>`;
}

/** The fields of a record, but for those that have a place of their own. */
export function RecordFields({ schema, record, value, onChange, without = [], keepEmpty = true }) {
  const hidden = [...without, ...(NOT_OVER_HTTP[record.title] ?? [])];
  const set = (name, next) => {
    const changed = withField(value ?? {}, name, next);
    onChange(keepEmpty ? changed : emptied(changed));
  };
  return html`<div class="grid">${Object.entries(record.properties).filter(([name]) => !hidden.includes(name)).map(([name, node]) => html`
    <${SchemaField} key=${name} schema=${schema} name=${name} node=${resolved(schema, node)} value=${value?.[name]} onChange=${(next) => set(name, next)} />`)}</div>`;
}

const resolved = (schema, node) => (node.$ref ? { ...resolve(schema, node), ...node } : node);
export const recordOf = (schema, name) => schema.$defs[name];
export const shownDefault = (value) => (typeof value === "number" ? number(value) : String(value));
