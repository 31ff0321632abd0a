// What the whole page shares: who calls, whether the server answers, the jobs as they change, and notices.

import { get, key, listeners, remove, post } from "./api.js";
import { watch } from "./events.js";
import { useEffect, useState } from "./lib.js";

export const FINAL = new Set(["succeeded", "failed", "cancelled"]);
const RECENT = 40;

const state = {
  me: null, keyNeeded: false, keyTried: false, away: false, jobs: new Map(), loaded: false,
  models: [], loras: [], recipes: [], schema: null, notices: [], assets: new Map(),
};
const watchers = new Set();
let stop = null;
let noticeId = 0;

export function change(part) {
  Object.assign(state, part);
  for (const watcher of [...watchers]) watcher();
}

/** Return what `pick` takes from the shared state, and draw again when it changed. */
export function useStore(pick) {
  const [, draw] = useState(0);
  useEffect(() => {
    const watcher = () => draw((count) => count + 1);
    watchers.add(watcher);
    watcher(); // what changed between drawing and now
    return () => watchers.delete(watcher);
  }, []);
  return pick(state);
}

export const peek = () => state;

/** Show a sentence for some seconds, and return its id. action: {label, run}. */
export function notice(text, { kind = "info", action = null, seconds = 7 } = {}) {
  const id = ++noticeId;
  change({ notices: [...state.notices.slice(-3), { id, text, kind, action }] });
  setTimeout(() => dismiss(id), seconds * 1000);
  return id;
}

export const dismiss = (id) => change({ notices: state.notices.filter((one) => one.id !== id) });
export const tell = (error) => error.name !== "AbortError" && notice(error.message, { kind: "bad", seconds: 12 });

export function jobsChanged(...jobs) {
  const held = new Map(state.jobs);
  for (const job of jobs) held.set(job.id, job);
  change({ jobs: held });
}

function jobGone(id) {
  const held = new Map(state.jobs);
  held.delete(id);
  change({ jobs: held });
}

export const newestFirst = (jobs) => [...jobs].sort((one, other) => other.created_at - one.created_at);

const asked = new Map(); // jobs whose record is on its way: id -> whether it changed meanwhile

/** Ask for a job's record: what the page shows is always rebuilt from it. */
export async function refreshJob(id) {
  if (asked.has(id)) { asked.set(id, true); return; }
  asked.set(id, false);
  try {
    jobsChanged(await get(`/jobs/${id}`));
  } catch (error) {
    if (error.status === 404 || error.status === 410) jobGone(id);
  } finally {
    const again = asked.get(id);
    asked.delete(id);
    if (again) refreshJob(id);
  }
}

function take(event) {
  const job = state.jobs.get(event.job_id);
  if (!job || event.type === "state" || event.type === "result") {
    refreshJob(event.job_id);
    if (job && ["queued", "paused"].includes(event.state)) refreshWaiting();
    return;
  }
  if (event.type === "progress") {
    const { progress } = event;
    jobsChanged({ ...job, progress, eta_s: progress.remaining_s ?? job.eta_s });
  } else if (event.type === "preview") {
    jobsChanged({ ...job, preview: event.asset });
  } else if (event.type === "warning") {
    jobsChanged({ ...job, warnings: [...new Set([...job.warnings, event.message])] });
  }
}

function refreshWaiting() {
  for (const job of state.jobs.values()) if (!FINAL.has(job.state)) refreshJob(job.id);
}

/** Read the newest jobs again. Those held that are no longer there are asked for one by one. */
export async function refreshJobs() {
  const page = await get(`/jobs?limit=${RECENT}`);
  const known = new Set(page.data.map((job) => job.id));
  for (const job of state.jobs.values()) if (!known.has(job.id) && !FINAL.has(job.state)) refreshJob(job.id);
  jobsChanged(...page.data);
  change({ loaded: true });
}

export async function refreshLists() {
  const lists = await Promise.all(["/models", "/loras", "/recipes"].map((path) => get(path)));
  const [found, loras, recipes] = lists.map((list) => list.data);
  const models = found.map((model) => ({ ...model, name: model.id ?? model.name }));
  change({ models, loras, recipes });
}

async function begin() {
  stop?.();
  stop = null;
  const [me, schema] = await Promise.all([get("/me"), state.schema ?? get("/schema")]);
  change({ me, schema, keyNeeded: false });
  await Promise.all([refreshLists(), refreshJobs()]);
  stop = watch(take, () => refreshJobs().catch(() => {}));
}

/** Connect, and try again until the server answers. */
export async function connect() {
  listeners.answered = () => state.away && change({ away: false });
  listeners.away = () => state.away || change({ away: true });
  listeners.keyNeeded = () => {
    if (state.keyNeeded) return;
    key.clear();
    stop?.();
    change({ keyNeeded: true, me: null });
  };
  for (;;) {
    try { return await begin(); } catch (error) {
      if (state.keyNeeded) return undefined;
      if (error.status >= 400 && error.status < 500) return tell(error);
      await new Promise((resolve) => setTimeout(resolve, 1500));
    }
  }
}

export async function cancelJob(id) {
  jobsChanged(await post(`/jobs/${id}/cancel`));
}

/** Pause or resume a job: verb is that word. */
export async function putJob(id, verb) {
  jobsChanged(await post(`/jobs/${id}/${verb}`));
}

export async function deleteJob(id) {
  await remove(`/jobs/${id}`);
  jobGone(id);
}

const retries = new Map(); // job id -> {key, made}: the retry that a second press means too, until it has ended
const hasEnded = (id) => FINAL.has(state.jobs.get(id)?.state ?? "cancelled");
const newKey = () => crypto.getRandomValues(new Uint32Array(4)).join("-"); // randomUUID is there over https alone

/** Make a job again. While that is on its way, queued or made, to press again makes no other. */
export async function retryJob(id) {
  const before = retries.get(id);
  if (!before || (before.made && hasEnded(before.made))) retries.set(id, { key: newKey(), made: null });
  const retry = retries.get(id);
  const job = await post(`/jobs/${id}/retry`, {}, { more: { "Idempotency-Key": retry.key } });
  retry.made = job.id;
  jobsChanged(job);
  return job;
}

export function assetKnown(asset) {
  state.assets.set(asset.id, asset);
  return asset;
}

/** Return the record of an asset, asked for once. null while it is on its way; {missing: true} where it is gone. */
export function useAsset(reference) {
  const id = reference?.startsWith?.("asset:") ? reference.slice(6) : null;
  const [, draw] = useState(0);
  useEffect(() => {
    if (!id || state.assets.has(id)) return;
    get(`/assets/${id}`)
      .then(assetKnown, (error) => error.status >= 400 && state.assets.set(id, { id, missing: true }))
      .then(() => draw((count) => count + 1));
  }, [id]);
  return id ? state.assets.get(id) ?? null : null;
}
