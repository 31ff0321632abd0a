// Calls of the native HTTP API: JSON, uploads with progress, the key, and tickets for players.

const KEY = "soundstage.key";
const TICKET_MARGIN_S = 60;
const tickets = new Map(); // asset id -> {word, until}: promises

export const key = {
  get: () => sessionStorage.getItem(KEY) || "",
  set: (value) => { sessionStorage.setItem(KEY, value); tickets.clear(); },
  clear: () => { sessionStorage.removeItem(KEY); tickets.clear(); },
};

/** An answer that tells what is wrong. status 0: the server did not answer. problems: [{field, message}]. */
export class Refusal extends Error {
  constructor(status, body) {
    const error = body?.error ?? {};
    super(error.message || (status === 0 ? "the server does not answer" : `the server answered ${status}`));
    this.status = status;
    this.code = error.code || "";
    this.advice = error.advice || null;
    this.problems = problemsOf(error, body?.detail ?? []);
  }
}

function problemsOf(error, detail) {
  const found = detail.map((one) => ({ field: fieldOf(one.loc), message: one.msg }));
  return found.length ? found : [{ field: error.field || "", message: error.message || "" }];
}

function fieldOf(loc) {
  const words = (loc || []).filter((word) => !["body", "request", "query"].includes(word));
  return words.map((word, n) => (typeof word === "number" ? `[${word}]` : n ? `.${word}` : word)).join("");
}

export function headers(more = {}) {
  const word = key.get();
  return word ? { ...more, Authorization: `Bearer ${word}` } : more;
}

export const listeners = { answered: () => {}, away: () => {}, keyNeeded: () => {} };

/** Call the API and return its JSON. Throws a Refusal. */
export async function call(method, path, body, { signal, more } = {}) {
  const options = { method, signal, headers: headers(more) };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  let answer;
  try {
    answer = await fetch(`/v1${path}`, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    listeners.away();
    throw new Refusal(0, null);
  }
  listeners.answered();
  const told = await answer.json().catch(() => null);
  if (answer.ok) return told;
  if (answer.status === 401) listeners.keyNeeded();
  throw new Refusal(answer.status, told);
}

export const get = (path, options) => call("GET", path, undefined, options);
export const post = (path, body = {}, options) => call("POST", path, body, options);
export const remove = (path) => call("DELETE", path);

/** Send a file and return its asset. told: called with the share that is sent, from 0 to 1. */
export function upload(file, purpose = "input", told = () => {}) {
  return new Promise((resolve, reject) => {
    const form = new FormData();
    form.append("purpose", purpose);
    form.append("file", file, file.name || "file");
    const request = new XMLHttpRequest();
    request.open("POST", `/v1/uploads?purpose=${encodeURIComponent(purpose)}`);
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => event.lengthComputable && told(event.loaded / event.total);
    request.onerror = () => { listeners.away(); reject(new Refusal(0, null)); };
    request.onload = () => {
      const body = parsed(request.responseText);
      if (request.status < 300) return resolve(body);
      if (request.status === 401) listeners.keyNeeded();
      reject(new Refusal(request.status, body));
    };
    request.send(form);
  });
}

function parsed(text) {
  try { return JSON.parse(text); } catch { return null; }
}

/** Return the address of an asset's file, or of a part such as "thumbnail?width=320". With a key it has a ticket. */
export async function mediaAddress(id, part = "content", fresh = false) {
  const address = `/v1/assets/${id}/${part}`;
  if (!key.get()) return address;
  const word = await ticketOf(id, fresh);
  return `${address}${part.includes("?") ? "&" : "?"}ticket=${encodeURIComponent(word)}`;
}

async function ticketOf(id, fresh) {
  const held = await tickets.get(id)?.catch(() => null);
  if (held && !fresh && held.until > Date.now() / 1000) return held.word;
  const asked = post(`/assets/${id}/ticket`).then((told) => ({
    word: new URL(told.url, location.href).searchParams.get("ticket"),
    until: told.expires_at - TICKET_MARGIN_S,
  }));
  tickets.set(id, asked);
  return (await asked).word;
}
