// Numbers and states in words.

const STATES = {
  queued: "Waiting", paused: "Paused", loading: "Loading the model", running: "Being made", checking: "Being checked",
  encoding: "Being written", succeeded: "Done", failed: "Failed", interrupted: "Interrupted", cancelled: "Cancelled",
};

export const stateWord = (state) => STATES[state] ?? state;

export function seconds(value) {
  if (value === null || value === undefined) return "unknown time";
  if (value < 1) return "under 1 s";
  if (value < 90) return `${Math.round(value)} s`;
  if (value < 5400) return `${Math.round(value / 60)} min`;
  return `${(value / 3600).toFixed(1)} h`;
}

export function bytes(value) {
  if (value >= 1e9) return `${(value / 1e9).toFixed(1)} GB`;
  if (value >= 1e6) return `${(value / 1e6).toFixed(1)} MB`;
  return `${Math.max(1, Math.round(value / 1e3))} kB`;
}

export const gigabytes = (value) => (value < 0.1 ? `${Math.round(value * 1000)} MB` : `${value.toFixed(1)} GB`);
export const number = (value, digits = 2) => String(+Number(value).toFixed(digits));
export const clock = (value) => `${Math.floor(value / 60)}:${(value % 60).toFixed(1).padStart(4, "0")}`;
export const share = (value) => `${Math.round((value ?? 0) * 100)} %`;
export const count = (value, one, many = `${one}s`) => `${value} ${value === 1 ? one : many}`;

export function ago(at) {
  const passed = Date.now() / 1000 - at;
  if (passed < 60) return "just now";
  if (passed < 3600) return `${Math.round(passed / 60)} min ago`;
  if (passed < 86400) return `${Math.round(passed / 3600)} h ago`;
  return new Date(at * 1000).toLocaleDateString(undefined, { day: "numeric", month: "short", year: "numeric" });
}

/** Return how far a job is, in one line. */
export function progressWords(job) {
  if (job.state === "queued") {
    const place = job.position ? `${count(job.position, "job")} before it` : "next";
    return job.eta_s ? `Waiting, ${place} · done in about ${seconds(job.eta_s)}` : `Waiting, ${place}`;
  }
  if (job.state !== "running") return stateWord(job.state);
  const { phase, step, num_steps: steps, window, num_windows: windows } = job.progress;
  const words = [phaseWord(phase)];
  if (windows > 1) words.push(`window ${window} of ${windows}`);
  if (steps) words.push(`step ${step} of ${steps}`);
  if (job.progress.losses) words.push(lossWords(job.progress.losses));
  if (job.eta_s) words.push(`${seconds(job.eta_s)} left`);
  return words.join(" · ");
}

/** Return the losses of a training's step in words. */
export const lossWords = (losses) => Object.entries(losses).map(([name, value]) => `${name} ${value.toFixed(4)}`).join(", ");

const PHASES = {
  preparing: "Reading the clips", encoding: "Encoding the clips", training: "Training",
  load: "Loading weights", encode: "Reading the prompt and inputs", denoise: "Making picture and sound",
  "decode audio": "Turning the result into sound", decode: "Turning the result into frames", upsample: "Making it larger", save: "Writing the file", queued: "Starting", resume: "Going on where it was",
};

export function phaseWord(phase) {
  const known = Object.keys(PHASES).find((name) => phase?.startsWith(name));
  return known ? PHASES[known] : (phase || "Working").replace(/^./, (letter) => letter.toUpperCase());
}

export const plain = (text) => (text || "").replace(/\s+/g, " ").trim();
export const title = (name) => name.replace(/_s$/, "").replaceAll("_", " ").replace(/^./, (letter) => letter.toUpperCase());
