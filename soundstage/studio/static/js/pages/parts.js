// Lists of jobs that are read by parts, and the button that reads the next one.

import { get } from "../api.js";
import { html, useEffect, useRef, useState } from "../lib.js";
import { jobsChanged, tell, useStore } from "../store.js";

export const PART = 24;
const SEARCH_PAUSE_MS = 250;

/** Read a list of jobs by parts. query: of GET /v1/jobs. again: the list is read anew when it changes.
 * Returns {ids, hasMore, ready, more}. */
export function useParts(query, again) {
  const [told, setTold] = useState({ ids: [], last: null, hasMore: false, ready: false });
  const connected = useStore((state) => state.me);
  const shown = useRef(PART);
  const read = async (after) => {
    const limit = after ? PART : Math.min(shown.current, 100);
    const page = await get(`/jobs?${new URLSearchParams({ ...query, limit, ...(after && { after }) })}`);
    jobsChanged(...page.data);
    // More was asked for while this answer was under way: it would take that away again.
    if (!after && limit < Math.min(shown.current, 100)) return read(null);
    setTold((before) => {
      const ids = [...new Set([...(after ? before.ids : []), ...page.data.map((job) => job.id)])];
      shown.current = Math.max(ids.length, PART);
      return { ids, last: page.last_id, hasMore: page.has_more, ready: true };
    });
    return undefined;
  };
  const key = JSON.stringify(query);
  useEffect(() => { shown.current = PART; }, [key]);
  useEffect(() => {
    if (!connected) return undefined;
    const timer = setTimeout(() => read(null).catch(tell), query.text ? SEARCH_PAUSE_MS : 0);
    return () => clearTimeout(timer);
  }, [key, again, connected]);
  return { ...told, more: () => read(told.last).catch(tell) };
}

/** The button at the end of a list, which is also pressed by scrolling down to it. */
export function More({ list }) {
  const [busy, setBusy] = useState(false);
  const button = useRef(null);
  const press = useRef(null);
  press.current = async () => {
    if (busy) return;
    setBusy(true);
    await list.more();
    setBusy(false);
  };
  useEffect(() => {
    if (!button.current) return undefined;
    const watcher = new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && scrollY > 0 && press.current());
    watcher.observe(button.current);
    return () => watcher.disconnect();
  }, [list.hasMore]);
  return list.hasMore && html`<div class="row center"><button type="button" class="button" ref=${button} aria-disabled=${busy} onClick=${() => press.current()}>Show more</button></div>`;
}
