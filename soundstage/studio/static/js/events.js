// Read the server's events for as long as the page is open: a fetch, so that the key can be sent with it.

import { headers, listeners } from "./api.js";

const PAUSE_MS = [300, 600, 1000, 2000, 4000]; // between tries while the server is away
const SILENCE_MS = 40000; // the server says something each 15 s

/** Hand every event to `take`; call `begun` whenever the stream begins anew. Returns a function that stops. */
export function watch(take, begun) {
  let after = null;
  let stopped = false;
  let tries = 0;
  let control = null;

  async function once() {
    control = new AbortController();
    const address = after === null ? "/v1/events" : `/v1/events?after=${after}`;
    const answer = await fetch(address, { headers: headers(), signal: control.signal, cache: "no-store" });
    if (answer.status === 401) { listeners.keyNeeded(); throw new Error("key"); }
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    tries = 0;
    listeners.answered();
    begun();
    await eachEvent(answer.body.getReader(), control, (event) => { after = event.id; take(event); });
  }

  async function run() {
    while (!stopped) {
      try { await once(); } catch (error) { if (!stopped && error.message !== "key") listeners.away(); }
      if (stopped) return;
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS[Math.min(tries++, PAUSE_MS.length - 1)]));
    }
  }

  run();
  return () => { stopped = true; control?.abort(); };
}

async function eachEvent(reader, control, take) {
  const decoder = new TextDecoder();
  let held = "";
  let timer = null;
  try {
    for (;;) {
      clearTimeout(timer);
      timer = setTimeout(() => control.abort(), SILENCE_MS);
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (held + decoder.decode(value, { stream: true })).split("\n\n");
      held = parts.pop();
      parts.map(dataOf).filter(Boolean).forEach(take);
    }
  } finally {
    clearTimeout(timer);
  }
}

function dataOf(text) {
  const lines = text.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim());
  return lines.length ? JSON.parse(lines.join("\n")) : null;
}
