// A page to chat with the server that it comes from. It asks for nothing else, and keeps the key for this tab only.
"use strict";

const byId = (id) => document.getElementById(id);
const chat = byId("chat");
const conversation = []; // {role, content}, as the API takes them
let running = null; // the AbortController of the reply that is being written

function headers() {
  const key = sessionStorage.getItem("key");
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function request(path, options = {}) {
  const response = await fetch(path, { headers: headers(), ...options });
  if (response.status === 401) {
    sessionStorage.removeItem("key");
    byId("key-form").hidden = false;
    byId("key").focus();
  }
  if (!response.ok) {
    const text = await response.text();
    let message = text;
    try {
      message = JSON.parse(text).error.message;
    } catch {
      // what is no JSON is shown as it is
    }
    throw new Error(message || `the server answered with status ${response.status}`);
  }
  return response;
}

async function describe() {
  try {
    const models = await (await request("v1/models")).json();
    byId("model").textContent = models.data[0].id;
    document.title = `${models.data[0].id} - ggufkit`;
    byId("state").textContent = "ready";
  } catch (error) {
    byId("state").textContent = error.message;
  }
}

function show(role, text) {
  const message = document.createElement("article");
  message.className = `message ${role}`;
  const title = document.createElement("h2");
  title.textContent = { user: "You", assistant: "Model", failed: "Failed" }[role];
  const content = document.createElement("div");
  content.className = "content";
  message.append(title, content);
  chat.append(message);
  write(content, text);
  message.scrollIntoView({ block: "end" });
  return content;
}

// Text as it is, but for fenced code, which gets a place of its own. Nothing a model writes becomes markup.
function write(place, text) {
  const parts = text.split(/^```[^\n]*\n?/m);
  const nodes = parts.map((part, index) => {
    if (index % 2 === 0) return document.createTextNode(part);
    const code = document.createElement("pre");
    code.tabIndex = 0;
    code.textContent = part;
    return code;
  });
  place.replaceChildren(...nodes);
}

function thoughts(message) {
  const fold = document.createElement("details");
  const title = document.createElement("summary");
  title.textContent = "Reasoning";
  const text = document.createElement("div");
  fold.append(title, text);
  message.before(fold);
  return text;
}

// The events of a stream: what stands behind `data:` in each, parsed.
async function* events(body) {
  const decoder = new TextDecoderStream();
  const reader = body.pipeThrough(decoder).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const data = line.startsWith("data:") ? line.slice(5).trim() : "";
      if (data && data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

function figures(timings) {
  const line = document.createElement("p");
  line.className = "figures";
  line.textContent =
    `${timings.predicted_n} tokens, ${timings.predicted_per_second.toFixed(1)} per second; ` +
    `prompt of ${timings.prompt_n} tokens, ${timings.prompt_per_second.toFixed(1)} per second`;
  return line;
}

function question() {
  const system = byId("system").value.trim();
  const temperature = byId("temperature").value;
  const limit = byId("limit").value;
  return {
    messages: [...(system ? [{ role: "system", content: system }] : []), ...conversation],
    stream: true,
    timings_per_token: false,
    ...(temperature === "" ? {} : { temperature: Number(temperature) }),
    ...(limit === "" ? {} : { max_tokens: Number(limit) }),
  };
}

async function answer() {
  running = new AbortController();
  busy(true);
  const place = show("assistant", "");
  let text = "";
  let reasoning = null;
  let timings = null;
  try {
    const options = { method: "POST", body: JSON.stringify(question()), signal: running.signal };
    const response = await request("v1/chat/completions", options);
    for await (const event of events(response.body)) {
      if (event.error) throw new Error(event.error.message);
      timings = event.timings || timings;
      const delta = event.choices?.[0]?.delta ?? {};
      if (delta.reasoning_content) {
        reasoning ??= thoughts(place);
        reasoning.textContent += delta.reasoning_content;
      }
      if (delta.content) {
        text += delta.content;
        write(place, text);
      }
      place.parentElement.scrollIntoView({ block: "end" });
    }
    if (timings) place.after(figures(timings));
    place.parentElement.scrollIntoView({ block: "end" });
    byId("state").textContent = "ready";
  } catch (error) {
    if (error.name === "AbortError") {
      byId("state").textContent = "stopped";
    } else {
      show("failed", error.message);
      byId("state").textContent = "the reply failed";
    }
  }
  if (text) conversation.push({ role: "assistant", content: text });
  else {
    place.parentElement.remove();
    const asked = conversation.pop(); // an unanswered question is not part of the conversation
    if (asked && !byId("question").value) byId("question").value = asked.content;
  }
  running = null;
  busy(false);
}

function busy(is) {
  byId("stop").disabled = !is;
  byId("send").disabled = is;
  chat.setAttribute("aria-busy", String(is)); // a reader speaks the whole reply, not each word of it
  if (is) byId("state").textContent = "writing …";
  else byId("question").focus();
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("question").value.trim();
  if (!text || running) return;
  byId("question").value = "";
  conversation.push({ role: "user", content: text });
  show("user", text);
  answer();
});

byId("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId("ask").requestSubmit();
  }
});

byId("stop").addEventListener("click", () => running?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});

byId("new").addEventListener("click", () => {
  running?.abort();
  conversation.length = 0;
  chat.replaceChildren();
  byId("question").focus();
});

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", byId("key").value.trim());
  byId("key").value = "";
  byId("key-form").hidden = true;
  describe();
});

function useTheme(theme) {
  document.documentElement.dataset.theme = theme;
  byId("theme").setAttribute("aria-pressed", String(theme === "dark"));
}

byId("theme").addEventListener("click", () => {
  const theme = byId("theme").getAttribute("aria-pressed") === "true" ? "light" : "dark";
  localStorage.setItem("theme", theme);
  useTheme(theme);
});

const preferred = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
useTheme(localStorage.getItem("theme") ?? preferred);
describe();
