// What the form holds: the JSON of a request, and how its job is run. It outlives a reload of the page.

import { useEffect, useState } from "./lib.js";

const NAME = "soundstage.draft";
export const EXAMPLE = "A red ball drops onto a wooden floor, bouncing three times.";
const FIRST = { request: { prompt: EXAMPLE }, run: { previews: true }, files: {}, open: null };

const watchers = new Set();
let draft = held();

function held() {
  try {
    const found = JSON.parse(localStorage.getItem(NAME));
    if (found?.request) return { ...FIRST, ...found };
  } catch { /* what is stored is no draft: begin anew */ }
  return FIRST;
}

function set(next) {
  draft = next;
  try { localStorage.setItem(NAME, JSON.stringify(draft)); } catch { /* full or forbidden: it lives in memory */ }
  for (const watcher of [...watchers]) watcher();
}

export function useDraft() {
  const [, draw] = useState(0);
  useEffect(() => {
    const watcher = () => draw((count) => count + 1);
    watchers.add(watcher);
    return () => watchers.delete(watcher);
  }, []);
  return draft;
}

/** Run something once when the request in the form is another. */
export function onceChanged(run) {
  const before = draft.request;
  const watcher = () => {
    if (draft.request === before) return;
    watchers.delete(watcher);
    run();
  };
  watchers.add(watcher);
}

export const isEmpty = (value) => value === undefined || value === null || value === ""
  || (Array.isArray(value) && !value.length);

/** Return a record with a field set; an empty value leaves it out. */
export function withField(record, name, value) {
  const next = { ...record };
  if (isEmpty(value)) delete next[name]; else next[name] = value;
  return next;
}

export const setField = (name, value) => set({ ...draft, request: withField(draft.request, name, value) });
export const setRun = (name, value) => set({ ...draft, run: withField(draft.run, name, value) });
export const setOpen = (open) => set({ ...draft, open });
export const clearDraft = () => set({ ...FIRST, request: { prompt: "" }, run: draft.run });
export const restore = (before) => set(before);
export const current = () => draft;

/** Fill the form from a request. Files that are not on the server are left out; returns how many. */
export function fill(request, { open = null, model = null, keepSeed = true } = {}) {
  const { value, lost } = withoutLocalFiles(withoutNulls(request));
  if (!keepSeed) delete value.seed;
  if (value.source) value.source = asRecord(value.source, "video");
  for (const [name, main] of [["guides", "image"], ["references", "video"], ["loras", "path"]]) {
    if (value[name]) value[name] = [value[name]].flat().map((one) => asRecord(one, main));
  }
  if (value.audio) value.audio = asRecord(value.audio, "file");
  set({ ...draft, request: value, run: withField(draft.run, "model", model ?? draft.run.model), open });
  return lost;
}

const asRecord = (value, main) => (typeof value === "string" ? { [main]: value } : value);
const FILES = ["image", "video", "audio", "file", "mask", "path"];
const isHere = (text) => /^(asset:|lora:|https:|data:)/.test(text);

function withoutLocalFiles(request) {
  let lost = 0;
  const clean = {};
  for (const [name, value] of Object.entries(request)) {
    if (["guides", "references", "loras"].includes(name)) {
      const kept = [value ?? []].flat().filter((one) => isHere(typeof one === "string" ? one : fileOf(one)));
      lost += [value ?? []].flat().length - kept.length;
      if (kept.length) clean[name] = kept;
    } else if (["source", "audio"].includes(name) && value) {
      if (isHere(typeof value === "string" ? value : fileOf(value))) clean[name] = value; else lost += 1;
    } else if (!isEmpty(value)) {
      clean[name] = value;
    }
  }
  if (clean.take?.folder) clean.take = withField(clean.take, "folder", null);
  return { value: structuredClone(clean), lost };
}

/** Drop fields that are null, at every level: a saved request lists the fields that were left out, too. */
function withoutNulls(value) {
  if (Array.isArray(value)) return value.map(withoutNulls);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).filter(([, one]) => one !== null).map(([name, one]) => [name, withoutNulls(one)]));
}

const fileOf = (record) => String(FILES.map((name) => record?.[name]).find(Boolean) ?? "");

/** Return the body of POST /v1/plan and /v1/jobs. */
export function bodyOf({ request, run }, seed) {
  const body = { request: seed === undefined ? request : { ...request, seed } };
  for (const name of ["model", "format", "priority", "label"]) if (run[name]) body[name] = run[name];
  for (const name of ["sheet", "keep_latents"]) if (run[name]) body[name] = true;
  if (run.previews ?? true) body.preview_every = run.preview_every ?? 2;
  if (run.webhook_url) body.webhook_url = run.webhook_url;
  return body;
}

/** Return the request that follows from a finished clip. how: retake, extend or upscale. */
export function following(job, how) {
  const clip = job.result.clip;
  const reference = `asset:${clip.id}`;
  const request = { prompt: job.request.prompt };
  const length = clip.duration_s || 2;
  if (how === "retake") {
    const third = Math.round((length / 3) * 10) / 10;
    request.source = { video: reference, regenerate: [{ start_s: third, end_s: Math.round(third * 20) / 10 }] };
  } else if (how === "extend") {
    request.source = { video: reference, extend_after_s: Math.max(1, Math.round(length / 2)) };
  } else {
    request.recipe = "upscale";
    request.source = { video: reference, modalities: ["video"] };
  }
  return request;
}
