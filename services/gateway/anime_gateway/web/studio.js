// The page at /: one event stream for everything, jobs as the events tell them, and a form that submits.
const API = "/api/anime";
const RECENT = 24;
const PHASES = { loading: "loading the model", encoding: "reading the prompt", sampling: "drawing", decoding: "developing",
  upscaling: "upscaling", saving: "saving" };
const STATES = { preparing: "improving the prompt", queued: "waiting", dispatched: "about to start", running: "running",
  filing: "filing", completed: "done", failed: "failed", cancelled: "cancelled" };
const ENDED = new Set(["completed", "failed", "cancelled"]);

const element = (id) => document.getElementById(id);
const jobs = new Map(); // id → { job, progress, node }

async function call(method, path, body, headers = {}) {
  const options = { method, headers };
  if (body !== undefined) {
    options.headers = { ...headers, "Content-Type": "application/json" };
    options.body = JSON.stringify(body);
  }
  const response = await fetch(API + path, options);
  const data = response.status === 204 ? null : await response.json();
  if (response.status === 401 && path !== "/session") askForToken();
  if (!response.ok) throw Object.assign(new Error(data.detail ?? response.statusText), { problem: data });
  return data;
}

// --- Jobs ---------------------------------------------------------------------------------------------------------

function take(job) {
  const known = jobs.get(job.id);
  if (known && (known.job.epoch > job.epoch || (known.job.epoch === job.epoch && known.job.version > job.version))) return;
  const entry = known ?? { node: makeNode(job.id) };
  entry.job = job;
  entry.progress = job.progress;
  jobs.set(job.id, entry);
  show(entry);
  arrange();
}

function takeProgress(progress) {
  const entry = jobs.get(progress.job_id);
  if (!entry || ENDED.has(entry.job.state)) return;
  entry.progress = progress;
  show(entry);
}

function makeNode(id) {
  const node = element("job").content.firstElementChild.cloneNode(true);
  node.querySelector(".cancel").addEventListener("click", (event) => order(event.target, id, "cancel"));
  node.querySelector(".retry").addEventListener("click", (event) => order(event.target, id, "retry"));
  return node;
}

async function order(button, id, verb) {
  button.disabled = true;
  try {
    const answer = await call("POST", `/jobs/${id}/${verb}`);
    if (answer.id) take(answer);
  } catch (error) {
    jobs.get(id).node.querySelector(".note").textContent = error.message;
  } finally {
    button.disabled = false;
  }
}

function arrange() {
  const sorted = [...jobs.values()].sort((a, b) => (a.job.created_at < b.job.created_at ? 1 : -1));
  for (const entry of sorted.slice(RECENT)) {
    if (!ENDED.has(entry.job.state)) continue;
    entry.node.remove();
    jobs.delete(entry.job.id);
  }
  const list = element("jobs");
  sorted.filter((entry) => jobs.has(entry.job.id)).forEach((entry, index) => {
    if (list.children[index] !== entry.node) list.insertBefore(entry.node, list.children[index] ?? null);
  });
  element("empty").hidden = jobs.size > 0;
}

function show({ job, progress, node }) {
  node.dataset.state = job.state;
  node.querySelector(".prompt").textContent = job.request.prompt;
  node.querySelector(".state").textContent = describe(job, progress);
  const bar = node.querySelector("progress");
  bar.hidden = ENDED.has(job.state);
  bar.value = progress.percent;
  node.querySelector(".note").textContent = job.error?.message ?? progress.message ?? job.prompt_note ?? "";
  node.querySelector(".cancel").hidden = ENDED.has(job.state) || job.cancel_requested;
  node.querySelector(".retry").hidden = job.state !== "failed" && job.state !== "cancelled";
  showPictures(node.querySelector(".pictures"), job, progress);
}

function describe(job, progress) {
  const parts = [STATES[job.state] ?? job.state];
  if (job.cancel_requested && !ENDED.has(job.state)) parts[0] = "stopping";
  else if (job.state === "running" && progress.phase) parts[0] = PHASES[progress.phase] ?? progress.phase;
  if (progress.step !== null && progress.steps !== null && !ENDED.has(job.state)) parts.push(`step ${progress.step}/${progress.steps}`);
  if (job.state === "running") parts.push(`${Math.floor(progress.percent)} %`);
  if (progress.position !== null) parts.push(`place ${progress.position}`);
  if (progress.eta_seconds !== null && !ENDED.has(job.state)) parts.push(`about ${Math.max(1, Math.round(progress.eta_seconds))} s left`);
  if (job.state === "completed" && job.started_at) {
    parts.push(`${((Date.parse(job.ended_at) - Date.parse(job.started_at)) / 1000).toFixed(1)} s`);
  }
  return [...parts, job.project, job.code].join(" · ");
}

function showPictures(box, job, progress) {
  const wanted = job.outputs.map((output) => output.file_id).join() || progress.preview_url || "";
  if (box.dataset.shown === wanted) return;
  box.dataset.shown = wanted;
  if (job.outputs.length === 0) {
    const preview = box.querySelector("img.preview");
    if (wanted && preview) preview.src = wanted;
    else box.replaceChildren(...(wanted ? [picture(wanted, "preview")] : []));
    return;
  }
  box.replaceChildren(...job.outputs.map((output) => {
    const content = `${API}/files/${output.file_id}/content`;
    if (output.type === "audio") return sound(content);
    const link = document.createElement("a");
    link.href = content;
    link.target = "_blank";
    link.rel = "noopener";
    link.append(picture(`${API}/files/${output.file_id}/thumbnail`, "final"));
    return link;
  }));
}

function picture(url, kind) {
  const image = document.createElement("img");
  image.src = url;
  image.className = kind;
  image.alt = kind === "preview" ? "Preview" : "Picture";
  return image;
}

function sound(url) {
  const player = document.createElement("audio");
  player.src = url;
  player.controls = true;
  player.preload = "metadata";
  return player;
}

// --- Events -------------------------------------------------------------------------------------------------------

let events = null;

function follow() {
  events?.close();
  events = new EventSource(`${API}/events`);
  const on = (name, take) => events.addEventListener(name, (event) => take(JSON.parse(event.data)));
  on("snapshot", (snapshot) => {
    snapshot.jobs.forEach(take);
    if (snapshot.queue) showQueue(snapshot.queue);
    quietly(recent);
    quietly(health);
  });
  on("reset", () => {
    for (const entry of jobs.values()) entry.node.remove();
    jobs.clear();
  });
  on("job", (data) => take(data.job));
  on("progress", takeProgress);
  on("queue", showQueue);
  on("project", () => quietly(projects));
  events.addEventListener("open", () => quietly(health));
  events.addEventListener("error", () => {
    say(false, "connection lost, trying again…");
    if (events.readyState === EventSource.CLOSED) setTimeout(() => quietly(begin), 2000);
  });
}

async function recent() {
  const page = await call("GET", `/jobs?limit=${RECENT}`);
  page.items.forEach(take);
}

function showQueue(queue) {
  element("queue").textContent = queue.waiting > 0 ? `· ${queue.waiting} waiting` : "";
  for (const place of queue.entries) {
    const entry = jobs.get(place.job_id);
    if (!entry || entry.job.state !== place.state) continue;
    entry.progress = { ...entry.progress, position: place.position, eta_seconds: place.eta_seconds, message: place.message };
    show(entry);
  }
}

async function health() {
  const response = await fetch(`${API}/health`);
  if (response.status === 401) return askForToken();
  const { status, parts } = await response.json();
  const wrong = Object.entries(parts ?? {}).filter(([, part]) => !part.ok).map(([name, part]) => `${name}: ${part.detail}`);
  say(status === "ok", status === "ok" ? "everything runs" : wrong.join("; "));
}

function say(good, text) {
  const node = element("health");
  node.className = `health ${good ? "ok" : "bad"}`;
  node.textContent = text;
}

// --- The form -----------------------------------------------------------------------------------------------------

const form = element("request");

function wanted() {
  const found = {};
  for (const [name, value] of new FormData(form)) {
    if (value === "") continue;
    found[name] = form.elements[name].type === "number" ? Number(value) : value;
  }
  found.optimize = form.elements.optimize.checked;
  return found;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button[type=submit]");
  button.disabled = true;
  complain(null);
  try {
    const answer = await call("POST", "/jobs", wanted(), { "Idempotency-Key": randomKey() });
    if (answer.id) take(answer);
    else complain({ detail: answer.detail });
  } catch (error) {
    complain(error.problem ?? { detail: error.message });
  } finally {
    button.disabled = false;
  }
});

// crypto.randomUUID exists on pages of secure origins alone, and a door in the local network may have no TLS.
function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function complain(problem) {
  for (const field of form.elements) field.removeAttribute("aria-invalid");
  element("problem").hidden = problem === null;
  element("problem").textContent = problem?.detail ?? "";
  form.elements[problem?.field]?.setAttribute("aria-invalid", "true");
}

function choices(select, values, chosen) {
  select.replaceChildren(...values.map(([value, text]) => new Option(text, value, false, value === chosen)));
}

async function projects() {
  const page = await call("GET", "/projects?state=active&limit=200");
  choices(form.elements.project, page.items.map((project) => [project.slug, project.name]), form.elements.project.value || "default");
}

async function models() {
  const page = await call("GET", "/models");
  const known = page.items.map(({ model }) => [model.key, model.title || model.key]);
  choices(form.elements.model, [["", "default"], ...known], form.elements.model.value);
}

element("project-make").addEventListener("click", async () => {
  try {
    const project = await call("POST", "/projects", { name: element("project-name").value });
    await projects();
    form.elements.project.value = project.slug;
    element("project-name").value = "";
    complain(null);
  } catch (error) {
    complain({ detail: error.message });
  }
});

// --- Signing in ---------------------------------------------------------------------------------------------------

const quietly = (work) => work().catch((error) => say(false, error.message));

async function begin() {
  const session = await call("GET", "/session");
  element("sign-out").hidden = !session.signed_in;
  if (session.required && !session.signed_in) return askForToken();
  element("sign-in").hidden = true;
  element("studio").hidden = false;
  form.hidden = session.signed_in && session.scope === "read";
  follow();
  quietly(projects);
  quietly(models);
}

function askForToken() {
  events?.close();
  element("studio").hidden = true;
  element("sign-out").hidden = true;
  element("sign-in").hidden = false;
  say(false, "sign in to go on");
}

element("sign-in").addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = event.target.elements.token;
  try {
    await call("POST", "/session", { token: field.value });
    field.value = "";
    element("sign-in-problem").hidden = true;
    await begin();
  } catch (error) {
    element("sign-in-problem").hidden = false;
    element("sign-in-problem").textContent = error.message;
  }
});

element("sign-out").addEventListener("click", () => quietly(async () => {
  await call("DELETE", "/session");
  await begin();
}));

quietly(begin);
setInterval(() => { if (!element("studio").hidden) quietly(health); }, 30000);
