// The contract, to be read and tried out: openapi.yaml as this gateway serves it.
SwaggerUIBundle({
  url: "openapi.yaml",
  dom_id: "#contract",
  validatorUrl: null, // it would ask another origin
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
});
